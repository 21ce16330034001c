"""The lists that a takedown is given: what is not an entry of its kind would match nothing."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from pipelines.config import ConfigError
from pipelines.rows.urls import url_host
from pipelines.rules.block_lists import list_entries
from pipelines.rules.tombstones import Tombstones, tombstones_of

_FORMS: Final = {
    "keys": (re.compile(r"[0-9a-fA-F]{16}"), "a row's key of 16 hex digits"),
    "urls": (re.compile(r".+"), "a URL"),
    "domains": (re.compile(r"[^\s/:@]+"), "a domain such as example.com"),
    "sha256": (re.compile(r"[0-9a-fA-F]{64}"), "a sha256 of 64 hex digits"),
}


def read_takedown_lists(paths: Mapping[str, str | None]) -> Tombstones:
    """What the lists name, by kind: `keys`, `urls`, `domains` and `sha256`; None where none is.

    Raises:
        ConfigError: a list cannot be read, an entry is none of its kind, or there is no entry.
    """
    stones = tombstones_of(**{kind: _entries(kind, path) for kind, path in paths.items()})
    if not stones:
        named = ", ".join(f"--{kind} {path}" for kind, path in paths.items() if path is not None)
        raise ConfigError(f"nothing to take down: the lists are empty ({named or 'none is given'})")
    return stones


def _entries(kind: str, path: str | None) -> Iterator[str]:
    form, told = _FORMS[kind]
    for text in list_entries(path, f"--{kind}", {}):
        entry = _host(text) if kind == "domains" else text
        if not form.fullmatch(entry):
            raise ConfigError(f"--{kind} {path}: {text[:80]!r} is not {told}; give one a line")
        yield entry


def _host(text: str) -> str:
    """The domain as block lists take it too: of a URL its host, without a wild card."""
    return url_host(text) if "://" in text else text.removeprefix("*.").removeprefix(".")
