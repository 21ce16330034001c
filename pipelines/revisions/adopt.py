"""A new revision takes over every shard that was made from the same before."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from threading import Lock

from pipelines.rows.ledger import RETRIED_REASONS
from pipelines.run.amendments import Amendments
from pipelines.run.commit_log import segment_of
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest, create_manifest
from pipelines.run.on_threads import in_order
from pipelines.run.store import RunStore
from pipelines.run.stored_json import read_json


def adopt_shards(
    made: Committed,
    *,
    shard_ids: Iterable[int],
    inputs_of: Callable[[int], str | None],
    is_same: Callable[[Manifest, str], bool] = lambda manifest, inputs: manifest.inputs == inputs,
) -> int:
    """Commit, without making them again, shards that an earlier revision made from the same.

    Args:
        made: A step whose manifests say what each shard was made from (`Manifest.inputs`), under
            the fingerprint of the revision that is being made.
        shard_ids: Its shards.
        inputs_of: What a shard would be made from; None where that is not known yet.
        is_same: Whether a shard of an earlier revision was made from that.

    Returns:
        How many were taken over.
    """
    store, step = made.store, made.step
    names = [n for n in store.list_folders(f"manifests/{step}") if n != made.fingerprint]
    donors = [(donor, donor.shards()) for donor in (Committed(store, step, n) for n in names)]
    if not any(shards for _, shards in donors):
        return 0
    lock, takes_records = Lock(), cache(partial(copy_records, store, step, now=made.fingerprint))

    def adopt(shard_id: int) -> Manifest | None:
        inputs = inputs_of(shard_id)
        if inputs is None:
            return None
        for donor, shards in donors:
            manifest = donor.find(shard_id) if shard_id in shards else None
            if manifest is None or manifest.quarantined is not None:
                continue
            if not is_same(manifest, inputs):
                continue
            with lock:  # once for all of its shards
                is_alike = takes_records(donor.fingerprint)
            if is_alike:
                return _taken(made, replace(manifest, inputs=inputs))
        return None

    done = made.begin()
    return _keep(made, adopt, [each for each in shard_ids if each not in done])


def adopt_download(
    made: Committed, *, amendments: Amendments, num_rows: Callable[[int], int], num_shards: int
) -> int:
    """Take over the shards that were downloaded before: all, or those with nothing to retry.

    Args:
        made: The download that is to have them.
        num_rows: Of a shard; one that had fewer when its list was cut short is made again.

    Returns:
        How many were taken over.
    """
    adopted = 0
    again = reasons_again(amendments)
    for before in amendments.before:
        if before == made.fingerprint:
            continue
        donor = Committed(made.store, made.step, before)
        copy_records(made.store, made.step, before, made.fingerprint)

        def adopt(shard_id: int, donor: Committed = donor) -> Manifest | None:
            manifest = donor.manifest(shard_id)
            is_again = manifest.quarantined is not None or not again.isdisjoint(manifest.dropped)
            if manifest.rows_in != num_rows(shard_id) or (amendments.fetches_again and is_again):
                return None
            return _taken(made, manifest)

        todo = sorted(donor.shards() - made.begin())
        adopted += _keep(made, adopt, [each for each in todo if each < num_shards])
    return adopted


def reasons_again(amendments: Amendments) -> frozenset[str]:
    """Of rows that a retry fetches again."""
    return RETRIED_REASONS | set(amendments.also_again)


def adopt_made(made: Committed, *, before: str) -> int:
    """Take over what a step made before it was asked to make again what it had given up.

    Returns:
        How many shards were taken over.
    """
    donor = Committed(made.store, made.step, before)
    todo = donor.shards() - made.begin()
    if not todo or not copy_records(made.store, made.step, before, made.fingerprint):
        return 0

    def adopt(shard_id: int) -> Manifest | None:
        manifest = donor.manifest(shard_id)
        return None if manifest.quarantined is not None else _taken(made, manifest)

    return _keep(made, adopt, sorted(todo))


def _taken(made: Committed, manifest: Manifest) -> Manifest:
    return create_manifest(made.store, replace(manifest, fingerprint=made.fingerprint))


def _keep(
    made: Committed, adopt: Callable[[int], Manifest | None], shard_ids: Sequence[int]
) -> int:
    """Take shards over, on threads; how many there were."""
    adopted = 0
    for manifest in in_order(adopt, shard_ids, num_threads=made.store.num_threads):
        if manifest is not None:
            made.log.add(manifest)
            adopted += 1
    return adopted


def copy_records(store: RunStore, step: str, before: str, now: str) -> bool:
    """Copy what workers recorded of the models; False where another record is there."""
    for name in store.list_files(f"manifests/{step}/{before}"):
        if name.removesuffix(".json").isdigit() or segment_of(name) is not None:
            continue
        earlier, path = (f"manifests/{step}/{each}/{name}" for each in (before, now))
        tree = read_json(store, earlier) if name.endswith(".json") else None
        content = store.read_bytes(earlier)
        if store.create_exclusive(path, content) or store.read_bytes(path) == content:
            continue
        if tree is None or read_json(store, path) != tree:  # perhaps one of them is not sealed
            return False
    return True
