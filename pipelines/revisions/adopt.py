"""A new revision takes over every shard that was made from the same before."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from threading import Lock

from pipelines.rows.ledger import RETRIED_REASONS
from pipelines.run.amendments import Amendments
from pipelines.run.manifest import (
    committed_shards,
    create_manifest,
    read_manifest,
)
from pipelines.run.on_threads import in_order
from pipelines.run.store import RunStore
from pipelines.run.stored_json import read_json


@dataclass(frozen=True, kw_only=True)
class _Donor:
    fingerprint: str
    shards: frozenset[int]


def adopt_shards(
    store: RunStore,
    *,
    step: str,
    fingerprint: str,
    shard_ids: Iterable[int],
    inputs_of: Callable[[int], str | None],
) -> int:
    """Commit, without making them again, shards that an earlier revision made from the same.

    Args:
        step: A step whose manifests say what each shard was made from (`Manifest.inputs`).
        fingerprint: Of the revision that is being made.
        shard_ids: Its shards.
        inputs_of: What a shard would be made from; None where that is not known yet.

    Returns:
        How many were taken over.
    """
    donors = _donors(store, step, fingerprint)
    done = committed_shards(store, step, fingerprint)

    lock, takes_records = Lock(), cache(partial(copy_records, store, step, now=fingerprint))

    def adopt(shard_id: int) -> bool:
        inputs = inputs_of(shard_id)
        for donor in donors if inputs is not None else ():
            if shard_id not in donor.shards:
                continue
            manifest = read_manifest(store, step, donor.fingerprint, shard_id)
            if manifest is None or manifest.inputs != inputs or manifest.quarantined is not None:
                continue
            with lock:  # once for all of its shards
                is_alike = takes_records(donor.fingerprint)
            if is_alike:
                create_manifest(store, replace(manifest, fingerprint=fingerprint))
                return True
        return False

    return sum(in_order(adopt, (each for each in shard_ids if donors and each not in done)))


def adopt_download(
    store: RunStore,
    *,
    amendments: Amendments,
    fingerprint: str,
    num_rows: Callable[[int], int],
    num_shards: int,
) -> int:
    """Take over the shards that were downloaded before: all, or those with nothing to retry.

    Args:
        num_rows: Of a shard; one that had fewer when its list was cut short is made again.

    Returns:
        How many were taken over.
    """
    adopted = 0
    done = committed_shards(store, "download", fingerprint) if amendments.before else set()
    for before in amendments.before:
        if before != fingerprint:
            copy_records(store, "download", before, fingerprint)
        todo = committed_shards(store, "download", before) - done if before != fingerprint else ()
        for shard_id in sorted(todo):
            manifest = read_manifest(store, "download", before, shard_id)
            if manifest is None or shard_id >= num_shards:
                continue
            if manifest.rows_in != num_rows(shard_id):
                continue
            is_again = not reasons_again(amendments).isdisjoint(manifest.dropped)
            if amendments.fetches_again and (is_again or manifest.quarantined is not None):
                continue
            create_manifest(store, replace(manifest, fingerprint=fingerprint))
            done.add(shard_id)
            adopted += 1
    return adopted


def reasons_again(amendments: Amendments) -> frozenset[str]:
    """Of rows that a retry fetches again."""
    return RETRIED_REASONS | set(amendments.also_again)


def adopt_made(store: RunStore, *, step: str, before: str, now: str) -> int:
    """Take over what a step made before it was asked to make again what it had given up.

    Returns:
        How many shards were taken over.
    """
    todo = committed_shards(store, step, before) - committed_shards(store, step, now)
    if todo and not copy_records(store, step, before, now):
        return 0
    adopted = 0
    for shard_id in sorted(todo):
        manifest = read_manifest(store, step, before, shard_id)
        if manifest is not None and manifest.quarantined is None:
            create_manifest(store, replace(manifest, fingerprint=now))
            adopted += 1
    return adopted


def copy_records(store: RunStore, step: str, before: str, now: str) -> bool:
    """Copy what workers recorded of the models; False where another record is there."""
    for name in store.list_files(f"manifests/{step}/{before}"):
        if name.removesuffix(".json").isdigit():
            continue
        earlier, path = (f"manifests/{step}/{each}/{name}" for each in (before, now))
        tree = read_json(store, earlier) if name.endswith(".json") else None
        content = store.read_bytes(earlier)
        if store.create_exclusive(path, content) or store.read_bytes(path) == content:
            continue
        if tree is None or read_json(store, path) != tree:  # perhaps one of them is not sealed
            return False
    return True


def _donors(store: RunStore, step: str, fingerprint: str) -> list[_Donor]:
    names = [n for n in store.list_folders(f"manifests/{step}") if n != fingerprint]
    return [
        _Donor(fingerprint=name, shards=frozenset(committed_shards(store, step, name)))
        for name in names
    ]
