"""What was taken down, as digests: nothing of it can be read, and nothing of it comes back."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.rows.ledger import TAKEDOWN_REASONS
from pipelines.rows.urls import normalise_url, url_host
from pipelines.rules.block_lists import entry_domain
from pipelines.rules.earlier_urls import earlier_url, earlier_url_host
from pipelines.run.record import read_run
from pipelines.run.revision_files import origin_of
from pipelines.run.store import RunStore
from pipelines.run.stored_json import damaged_record, read_json
from sd_core.redact import redact_url
from sd_core.sealed import seal

TOMBSTONES_FILE = "takedown/tombstones.json"
TAKEN_DOWN = TAKEDOWN_REASONS[0]
_OF_GENERATED: Final = ("prompts", "sources", "contents")
"""Kinds that only generated runs have; left out where there is none, as earlier versions did."""
_KINDS = ("keys", "urls", "domains", "sha256", *_OF_GENERATED)
_HEX_KEY = re.compile(r"[0-9a-fA-F]{16}")


@dataclass(frozen=True, kw_only=True)
class Tombstones:
    """Digests of keys, URLs, domains and contents that must not be in a run.

    Attributes:
        keys: `digest_of("keys", key)` of each; the others alike.
        sha256: Of files: originals as downloaded, generated images as stored.
        prompts: Of `prompt_key`s: every image of a prompt.
        sources: Of `init_key`s: every image that starts from one.
        contents: Of images that a prompt's text and settings make, whatever its key.
    """

    keys: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    sha256: frozenset[str] = frozenset()
    prompts: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    contents: frozenset[str] = frozenset()

    @cached_property
    def digest(self) -> str | None:
        """16 hex digits over all of them; None where there is none."""
        if not self:
            return None
        return hashlib.sha256(self.to_json()).hexdigest()[:16]

    def __bool__(self) -> bool:
        return any(getattr(self, kind) for kind in _KINDS)

    def __or__(self, other: "Tombstones") -> "Tombstones":
        return Tombstones(**{kind: getattr(self, kind) | getattr(other, kind) for kind in _KINDS})

    @classmethod
    def union(cls, each: Iterable["Tombstones"]) -> "Tombstones":
        """All of them as one."""
        found: dict[str, set[str]] = {kind: set() for kind in _KINDS}
        for one in each:
            for kind, stones in found.items():
                stones.update(getattr(one, kind))
        return cls(**{kind: frozenset(stones) for kind, stones in found.items()})

    def to_json(self) -> bytes:
        """As they are stored, but for the seal."""
        tree = {
            kind: sorted(stones)
            for kind in _KINDS
            if (stones := getattr(self, kind)) or kind not in _OF_GENERATED
        }
        return (json.dumps(tree, indent=1) + "\n").encode()

    def hides_url(self, url: str) -> bool:
        """Whether a URL, or its domain, is taken down."""
        if not self.urls and not self.domains:
            return False
        return not (
            self.urls.isdisjoint(_url_digests(url))
            and self.domains.isdisjoint(_domain_digests(url))
        )

    def hides_content(self, sha256: str) -> bool:
        """Whether content of this hex sha256 is taken down."""
        return bool(self.sha256) and digest_of("sha256", sha256) in self.sha256

    def hides(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows are taken down, by `key`, `url`, `final_url`, `sha256`, and of generated rows
        `prompt_key`, `init_key` and `content`."""
        return self.find(rows)[0]

    def find(self, rows: pa.Table) -> tuple[npt.NDArray[np.bool_], "Tombstones"]:
        """As `hides`, and those of the tombstones that hide any."""
        hidden = np.zeros(rows.num_rows, np.bool_)
        hits: dict[str, set[str]] = {}
        for kind, (columns, digests) in _LOOKED_AT.items():
            stones = getattr(self, kind)
            present = [rows[name].to_pylist() for name in columns if name in rows.column_names]
            if not stones or not present:
                continue
            for row, texts in enumerate(zip(*present, strict=True)):
                for text in {text for text in texts if text is not None}:
                    if not stones.isdisjoint(found := set(digests(text))):
                        hidden[row] = True
                        hits.setdefault(kind, set()).update(found & stones)
        return hidden, Tombstones(**{kind: frozenset(found) for kind, found in hits.items()})


def read_tombstones(store: RunStore) -> Tombstones:
    """Those of a run; none where nothing was taken down. Raises `DamagedRecordError`."""
    try:
        tree = read_json(store, TOMBSTONES_FILE)
        every = {**dict.fromkeys(_OF_GENERATED, ()), **tree}
        return Tombstones(**{kind: frozenset(every[kind]) for kind in _KINDS})
    except FileNotFoundError:
        return Tombstones()
    except (TypeError, KeyError) as error:
        raise damaged_record(store, TOMBSTONES_FILE, str(error)) from error


def is_unfinished(store: RunStore) -> bool:
    """Whether a takedown was killed before its end."""
    steps = read_run(store).get("steps", {})
    origin = origin_of(steps)
    if origin is None:
        return False
    edition = steps[origin].get("options", {}).get("edition", {})
    return bool(edition.get("tombstones") != read_tombstones(store).digest)


def write_tombstones(store: RunStore, tombstones: Tombstones) -> None:
    store.replace(TOMBSTONES_FILE, seal(tombstones.to_json().decode()))


def tombstones_of(**entries: Iterable[str]) -> Tombstones:
    """Of texts as a user gives them, by kind.

    Raises:
        ConfigError: a domain is none.
    """
    return Tombstones(
        **{kind: frozenset(entry_digest(kind, t) for t in texts) for kind, texts in entries.items()}
    )


def entry_digest(kind: str, text: str) -> str:
    """Of one entry as a user gives it; raises `ConfigError` of a domain that is none."""
    text = text.strip()
    if kind == "urls":
        return url_digest(text)
    if kind == "domains":
        return digest_of(kind, entry_domain(text, "--domains"))
    is_hex = kind == "sha256" or (kind in ("keys", "sources") and _HEX_KEY.fullmatch(text))
    return digest_of(kind, text.lower() if is_hex else text)


def digest_of(kind: str, text: str) -> str:
    """32 hex digits of a text of one kind."""
    return hashlib.blake2b(
        f"{kind}\n{text}".encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()


def url_digest(url: str) -> str:
    """Of a URL without its secrets, in its normal form."""
    return digest_of("urls", normalise_url(redact_url(url)))


def masked_key(key: str) -> str:
    """16 hex digits that stand for the key of a row that was taken down."""
    return hashlib.blake2b(f"masked\n{key}".encode(), digest_size=8).hexdigest()


def mask_rows(
    table: pa.Table,
    hidden: npt.NDArray[np.bool_],
    *,
    key: str = "key",
    left: Collection[str] = ("shard_id", "row"),
) -> pa.Table:
    """Leave of the hidden rows their numbers, a digest as the key, and the reason."""
    if not hidden.any():
        return table
    keys = table[key].to_pylist()
    told = {
        key: [masked_key(one) if hide else one for one, hide in zip(keys, hidden, strict=True)],
        "reason": _filled(table, "reason", TAKEN_DOWN, hidden),
    }
    if "kept" in table.column_names:
        told["kept"] = _filled(table, "kept", False, hidden)
    visible = pa.array(~hidden)
    arrays = []
    for field in table.schema:
        column = table[field.name]
        if field.name in told:
            arrays.append(pa.array(told[field.name], field.type))
        elif field.name in left:
            arrays.append(column)
        else:
            arrays.append(pa.chunked_array([_null_where_not(column, visible)], field.type))
    return pa.Table.from_arrays(arrays, schema=table.schema)


def _null_where_not(column: pa.ChunkedArray, visible: pa.Array) -> pa.Array:
    positions = np.arange(len(column))
    mask = ~np.asarray(visible, bool)
    return pa.concat_arrays(column.chunks).take(pa.array(positions, mask=mask))


def _filled(
    table: pa.Table, name: str, value: object, hidden: npt.NDArray[np.bool_]
) -> list[object]:
    return [
        value if hide else old for old, hide in zip(table[name].to_pylist(), hidden, strict=True)
    ]


def _url_digests(url: str) -> Iterator[str]:
    for text in {redact_url(url), url}:  # unredacted: earlier versions did not know every signer
        yield digest_of("urls", normalise_url(text))
        yield digest_of("urls", earlier_url(text))


def _domain_digests(url: str) -> Iterator[str]:
    for host in {url_host(url), earlier_url_host(url)}:
        parts = host.split(".")
        for start in range(len(parts)):
            yield digest_of("domains", ".".join(parts[start:]))


def _digests(kind: str) -> Callable[[str], Iterable[str]]:
    return lambda text: (digest_of(kind, text),)


_LOOKED_AT: Final[Mapping[str, tuple[tuple[str, ...], Callable[[str], Iterable[str]]]]] = {
    "keys": (("key",), _digests("keys")),
    "urls": (("url", "final_url"), _url_digests),
    "domains": (("url", "final_url"), _domain_digests),
    "sha256": (("sha256",), _digests("sha256")),
    "prompts": (("prompt_key",), _digests("prompts")),
    "sources": (("init_key",), _digests("sources")),
    "contents": (("content",), _digests("contents")),
}
"""By kind, the columns that are looked at, and what of a text there may be a tombstone."""
