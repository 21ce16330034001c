"""The lists that a takedown is given: what is not an entry of its kind would match nothing."""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

from fsspec.utils import get_protocol

from pipelines.config import ConfigError
from pipelines.prompts import load_prompt_plan, read_prompts
from pipelines.revisions.identities import recorded_steps
from pipelines.revisions.unmatched import Entries
from pipelines.rows.ledger import TAKEDOWN_REASONS
from pipelines.rows.urls import url_host
from pipelines.rules.block_lists import list_entries
from pipelines.rules.tombstones import entry_digest, masked_key
from pipelines.run.committed import Committed
from pipelines.run.on_threads import in_order
from pipelines.run.record import read_run
from pipelines.run.revision_files import origin_of
from pipelines.run.store import RunStore

_HEX_KEY = "[0-9a-fA-F]{16}", "a row's key of 16 hex digits"
_IMAGE_KEY = r"[A-Za-z0-9_\-]{1,80}-\d{1,9}", "an image's key such as mine-0"
_SHA256 = "[0-9a-fA-F]{64}", "a sha256 of 64 hex digits"
_FORMS: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "download": {
        "keys": _HEX_KEY,
        "urls": (r"(?s).+", "a URL"),
        "domains": (r"[^\s/:@]+", "a domain such as example.com"),
        "sha256": _SHA256,
    },
    "generate": {
        "keys": _IMAGE_KEY,
        "sha256": _SHA256,
        "prompts": (r"[A-Za-z0-9_\-]{1,80}", "a prompt's key of A-Z a-z 0-9 _ -"),
        "sources": (f"{_HEX_KEY[0]}|{_IMAGE_KEY[0]}", "the key of a row or of an image"),
    },
}
"""What an entry looks like, by the step that makes a run's images."""


def read_takedown_lists(store: RunStore, paths: Mapping[str, str | None]) -> Entries:
    """What the lists name, by kind, each as it is compared.

    Args:
        store: The run that they are for.
        paths: None where there is no list.

    Raises:
        ConfigError: a list cannot be read, or is none for such a run, an entry is none of its
            kind, or there is no entry.
    """
    forms = _FORMS[origin_of(read_run(store).get("steps", {})) or "download"]
    given = {kind: path for kind, path in paths.items() if path is not None}
    for kind in given:
        if kind not in forms:
            raise ConfigError(
                f"--{kind}: rows of this run have none; give "
                + ", ".join(f"--{name}" for name in forms)
            )
    entries = {kind: list(_entries(kind, path, forms[kind], store)) for kind, path in given.items()}
    if given and not any(entries.values()):
        named = ", ".join(f"--{kind} {path}" for kind, path in given.items())
        raise ConfigError(f"nothing to take down: the lists are empty ({named})")
    return entries


def sources_taken_down(store: RunStore, sources: RunStore) -> list[str]:
    """The keys that images of a generated run start from, and that are taken down in another.

    Raises:
        ConfigError: one of them is no run, or the first has no prompts.
    """
    if origin_of(read_run(store).get("steps", {})) != "generate":
        raise ConfigError(f"--taken-down-in: {store.root} is no generated run")
    origin = next(iter(recorded_steps(sources, read_run(sources)).values()))
    made = Committed(sources, origin.step, origin.fingerprint)
    read = partial(_masked_keys, made)
    found = in_order(read, made.shards(), num_threads=sources.num_threads)
    masked = {key for keys in found for key in keys}
    plan = load_prompt_plan(store)

    def starts(shard_id: int) -> set[str]:
        return set(read_prompts(plan, store, shard_id)["init_key"].drop_null().to_pylist())

    named = set().union(*in_order(starts, range(plan.num_shards), num_threads=store.num_threads))
    return sorted(key for key in named if masked_key(key) in masked)


def _masked_keys(made: Committed, shard_id: int) -> list[str]:
    facts = made.table(shard_id, f"facts/{made.step}", columns=["key", "reason"])
    if facts is None:
        return []
    rows = zip(facts["key"].to_pylist(), facts["reason"].to_pylist(), strict=True)
    return [key for key, reason in rows if reason in TAKEDOWN_REASONS]


def _entries(kind: str, path: str, form: tuple[str, str], run: RunStore) -> Iterator[str]:
    options = dict(run.storage_options) if get_protocol(path) == get_protocol(run.root) else {}
    for text in list_entries(path, f"--{kind}", options):
        entry = _host(text) if kind == "domains" else text
        if not re.fullmatch(form[0], entry):
            raise ConfigError(f"--{kind} {path}: {text[:80]!r} is not {form[1]}; give one a line")
        entry_digest(kind, entry)  # raises where a domain is none
        yield entry.lower() if kind == "keys" and re.fullmatch(_HEX_KEY[0], entry) else entry


def _host(text: str) -> str:
    """The domain as block lists take it too: of a URL its host, without a wild card."""
    return url_host(text) if "://" in text else text.removeprefix("*.").removeprefix(".")
