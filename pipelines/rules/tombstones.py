"""What was taken down, as digests: nothing of it can be read, and nothing of it comes back."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.rows.ledger import TAKEDOWN_REASONS
from pipelines.rows.urls import normalise_url, url_host
from pipelines.rules.block_lists import entry_domain
from pipelines.rules.earlier_urls import earlier_url, earlier_url_host
from pipelines.run.store import RunStore
from pipelines.run.stored_json import damaged_record, read_json
from sd_core.redact import redact_url
from sd_core.sealed import seal

TOMBSTONES_FILE = "takedown/tombstones.json"
TAKEN_DOWN = TAKEDOWN_REASONS[0]
_KINDS = ("keys", "urls", "domains", "sha256")
_KEPT_COLUMNS = ("shard_id", "row")


@dataclass(frozen=True, kw_only=True)
class Tombstones:
    """Digests of keys, URLs, domains and contents that must not be in a run.

    Attributes:
        keys: `digest_of("keys", key)` of each; the others alike.
    """

    keys: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    sha256: frozenset[str] = frozenset()

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

    def to_json(self) -> bytes:
        """As they are stored, but for the seal."""
        tree = {kind: sorted(getattr(self, kind)) for kind in _KINDS}
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
        """Which rows are taken down, by their `key`, `url`, `final_url` and `sha256`."""
        hidden = np.zeros(rows.num_rows, np.bool_)
        if not self:
            return hidden
        if self.keys:
            hidden |= _found(rows, "key", lambda key: digest_of("keys", key) in self.keys)
        hidden |= _found(rows, "sha256", self.hides_content)
        for column in ("url", "final_url"):
            hidden |= _found(rows, column, self.hides_url)
        return hidden


def read_tombstones(store: RunStore) -> Tombstones:
    """Those of a run; none where nothing was taken down. Raises `DamagedRecordError`."""
    try:
        tree = read_json(store, TOMBSTONES_FILE)
        return Tombstones(**{kind: frozenset(tree[kind]) for kind in _KINDS})
    except FileNotFoundError:
        return Tombstones()
    except (TypeError, KeyError) as error:
        raise damaged_record(store, TOMBSTONES_FILE, str(error)) from error


def write_tombstones(store: RunStore, tombstones: Tombstones) -> None:
    """Store them."""
    store.replace(TOMBSTONES_FILE, seal(tombstones.to_json().decode()))


def tombstones_of(
    *,
    keys: Iterable[str] = (),
    urls: Iterable[str] = (),
    domains: Iterable[str] = (),
    sha256: Iterable[str] = (),
) -> Tombstones:
    """Of texts as a user gives them.

    Raises:
        ConfigError: a domain is none.
    """
    return Tombstones(
        keys=frozenset(digest_of("keys", key.strip().lower()) for key in keys),
        urls=frozenset(url_digest(url.strip()) for url in urls),
        domains=frozenset(
            digest_of("domains", entry_domain(text, "--domains")) for text in domains
        ),
        sha256=frozenset(digest_of("sha256", text.strip().lower()) for text in sha256),
    )


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


def mask_rows(table: pa.Table, hidden: npt.NDArray[np.bool_]) -> pa.Table:
    """Leave of the hidden rows their numbers, a digest as the key, and the reason."""
    if not hidden.any():
        return table
    keys = table["key"].to_pylist()
    told = {
        "key": [masked_key(key) if hide else key for key, hide in zip(keys, hidden, strict=True)],
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
        elif field.name in _KEPT_COLUMNS:
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


def _found(rows: pa.Table, column: str, is_hidden: Callable[[str], bool]) -> npt.NDArray[np.bool_]:
    if column not in rows.column_names:
        return np.zeros(rows.num_rows, np.bool_)
    texts = rows[column].to_pylist()
    return np.array([text is not None and is_hidden(text) for text in texts], np.bool_)


def _url_digests(url: str) -> Iterator[str]:
    yield url_digest(url)
    yield digest_of("urls", earlier_url(redact_url(url)))


def _domain_digests(url: str) -> Iterator[str]:
    for host in {url_host(url), earlier_url_host(url)}:
        parts = host.split(".")
        for start in range(len(parts)):
            yield digest_of("domains", ".".join(parts[start:]))
