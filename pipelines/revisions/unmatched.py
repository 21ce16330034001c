"""Entries of a takedown's lists that no row of the run has: counted, and named in the run.

They are named as they were given, without secrets. A row that was taken down is never among them:
what was asked for earlier and is not here was found then.
"""

from collections.abc import Iterator, Mapping, Sequence

from pipelines.rules.tombstones import Tombstones, digest_of, entry_digest, masked_key
from pipelines.run.store import RunStore
from pipelines.run.stored_json import read_json, write_json
from sd_core.redact import redact_url

UNMATCHED_FILE = "takedown/unmatched.json"
_STILL_NAMED = ("keys", "prompts")
"""Kinds of which a row that was taken down still has a digest."""

Entries = Mapping[str, Sequence[str]]
"""By kind, as `Tombstones` calls them, what the lists name."""


def masked_entries(entries: Entries) -> Tombstones:
    """What rows are called that were taken down before, whatever they were found by then."""
    return Tombstones(
        **{
            kind: frozenset(digest_of(kind, masked_key(text)) for text in entries.get(kind, ()))
            for kind in _STILL_NAMED
        }
    )


def record_unmatched(
    store: RunStore, entries: Entries, *, hits: Tombstones, earlier: Tombstones
) -> int:
    """Name the entries that no row has, beside those that earlier takedowns named.

    Args:
        hits: What was found of the entries, and of `masked_entries`.
        earlier: The run's tombstones before.

    Returns:
        How many of these entries match nothing.
    """
    before = _read(store)
    known = {name: _is_in(hits, *name) for name in dict.fromkeys(_named(entries))}
    unmatched = {
        name
        for name, is_found in known.items()
        if not is_found and (name in before or not _has(earlier, *name))
    }
    named = {name for name in before if not known.get(name)} | unmatched
    if named != before:
        tree: dict[str, list[str]] = {}
        for kind, text in sorted(named):
            tree.setdefault(kind, []).append(text)
        if tree:
            write_json(store, UNMATCHED_FILE, tree)
        else:
            store.delete(UNMATCHED_FILE)
    return len(unmatched)


def _named(entries: Entries) -> Iterator[tuple[str, str]]:
    for kind, texts in entries.items():
        yield from ((kind, redact_url(text) if kind == "urls" else text) for text in texts)


def _is_in(hits: Tombstones, kind: str, text: str) -> bool:
    is_masked = kind in _STILL_NAMED and digest_of(kind, masked_key(text)) in getattr(hits, kind)
    return is_masked or _has(hits, kind, text)


def _has(stones: Tombstones, kind: str, text: str) -> bool:
    return entry_digest(kind, text) in getattr(stones, kind)


def _read(store: RunStore) -> set[tuple[str, str]]:
    try:
        return set(_named(read_json(store, UNMATCHED_FILE)))
    except FileNotFoundError:
        return set()
