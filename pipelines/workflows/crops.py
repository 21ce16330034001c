"""What a job may do with a run whose crops were removed: nothing that needs one of them."""

from collections.abc import Collection
from dataclasses import replace

from pipelines.config import ConfigError
from pipelines.run.checked import read_checked
from pipelines.run.committed import Committed
from pipelines.run.crops import RemovedCrops, images_file, read_removed
from pipelines.run.draft_store import DraftStore
from pipelines.run.images import damaged, image_places
from pipelines.run.manifest import Manifest
from pipelines.run.record import read_revision
from pipelines.run.shard_inputs import kept_keys
from pipelines.run.store import RunStore
from pipelines.workflows.run_steps import RunSteps

_DRAFT = "draft"


def refuse_more_without_crops(store: RunStore, *, grows: bool) -> None:
    """Raise `ConfigError` where a run whose crops were removed is to have more rows: a cut of them
    all may keep rows again that have no picture."""
    if grows and (removed := read_removed(store)) is not None:
        raise _refused(removed, "more rows")


def refuse_without_crops(job: RunSteps, asked: Collection[str]) -> None:
    """Raise `ConfigError` where an asked step needs a picture that `clean --crops` removed.

    A new cut is made for it in memory, a shard at a time; nothing is written.
    """
    removed = read_removed(job.store)
    if removed is None:
        return
    revision = read_revision(job.store)
    for step in (job.origin, "score"):
        if step in asked and not job.is_complete(revision, [step]):
            raise _refused(removed, step)
    if "select" not in asked or job.is_complete(revision, ["select"]):
        return
    lost = _rows_kept_again(job)
    if lost:
        raise ConfigError(
            f"this cut keeps {lost:,} row(s) again whose pictures `clean --crops` removed: cut "
            "no wider than before it, or give another `output`, which fetches them again"
        )


def _refused(removed: RemovedCrops, what: str) -> ConfigError:
    return ConfigError(
        f"{what}: every picture may be needed, and `clean --crops` removed {removed.told}; give "
        "another `output`, which fetches them again"
    )


def _rows_kept_again(job: RunSteps) -> int:
    """Rows without a picture that the asked cut would keep."""
    draft = DraftStore.over(job.store)
    select = replace(job.select(lambda line: None), store=draft, fingerprint=_DRAFT)
    lost = 0
    cut = read_revision(job.store).steps.get("select")
    present = None if cut is None else Committed(job.store, "select", cut.fingerprint)

    def on_commit(manifest: Manifest) -> None:
        nonlocal lost
        entry = manifest.file("ledger")
        table = None if entry is None else read_checked(draft, entry, ["key", "kept"])
        for path in (*(file.path for file in manifest.files), manifest.path):
            draft.written.pop(path, None)  # of a few shards the ledger is held, not the run's
        if table is not None:
            kept = set(table.filter(table["kept"])["key"].to_pylist())
            lost += len(kept - _there(job, present, manifest.shard_id, kept))

    select.run(on_commit)
    return lost


def _there(job: RunSteps, present: Committed | None, shard_id: int, keys: set[str]) -> set[str]:
    """Those of the keys that have a picture; no tar is read where the present cut keeps them."""
    is_cut = present is not None and present.find(shard_id) is not None
    if present is not None and is_cut and keys <= set(kept_keys(present, shard_id)):
        return keys
    image = images_file(job.store, job.committed(job.origin).file(shard_id, "images"))
    if image is None:
        return set()
    with job.store.open(image.path) as stream:
        return set(image_places(stream, fault=damaged(image.path)))
