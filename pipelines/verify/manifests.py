"""One shard's manifests: counts, files and what one step says against the next."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from pipelines.rows.ledger import (
    QUARANTINED,
    REASONS,
    SCORE_REASONS,
    SELECT_REASONS,
    TAKEDOWN_REASONS,
)
from pipelines.run.committed import Committed
from pipelines.run.crops import images_file
from pipelines.run.manifest import FileEntry, Manifest, ShardError, manifest_path
from pipelines.run.store import RunStore
from pipelines.steps.kinds import STEP_KINDS
from pipelines.verify.fault import Fault, shown
from pipelines.verify.files import FileSizes
from pipelines.verify.secrets import check_tree_secrets


@dataclass(frozen=True)
class Held:
    """What a run has of one step's manifests and files.

    Attributes:
        deep: Read each manifest, and hold the commit log against it; else the log is gone by.
    """

    made: Committed
    sizes: FileSizes
    deep: bool

    def load(self, shard_id: int, faults: list[Fault]) -> Manifest | None:
        """The shard's manifest; None, and a fault, where it is missing or torn."""
        made = self.made
        path = manifest_path(made.step, made.fingerprint, shard_id)
        try:
            manifest = made.read(shard_id) if self.deep else made.find(shard_id)
            logged = made.log.find(shard_id) if self.deep else manifest
        except ShardError as error:
            where, _, found = str(error).partition(": ")
            where = path if where == made.store.place(path) else made.log.path_of(shard_id)
            faults.append(Fault(where, found, "the shard's manifest"))
            return None
        if manifest is None or self.sizes.of(path) is None:
            faults.append(Fault(path, "missing", "the manifest of a completed step's shard"))
            return None
        if logged not in (manifest, None):
            faults.append(Fault(made.log.path_of(shard_id), f"another {path}", "as that is"))
        faults += check_manifest(manifest, where=path)
        if manifest.quarantined is None:
            faults += check_files(made.store, manifest, self.sizes)
        return manifest


def check_manifest(manifest: Manifest, *, where: str) -> Iterator[Fault]:
    """Counts are plausible and reasons are those that the step may give; no secrets."""
    allowed = STEP_KINDS[manifest.step].reasons if manifest.step in STEP_KINDS else REASONS
    for reason, count in manifest.dropped.items():
        if reason not in allowed:
            yield Fault(where, f"dropped for {shown(reason)}", "a reason of this step")
        if count < 1:
            yield Fault(where, f"{count} rows dropped for {reason}", "at least 1")
    if manifest.kept < 0:
        yield Fault(where, f"{manifest.kept} rows kept", "at least 0")
    quarantined = manifest.dropped.get(QUARANTINED, 0)
    if manifest.quarantined is None:
        if quarantined and manifest.step != "select":
            yield Fault(where, f"{quarantined} rows {QUARANTINED}", "none: the shard is not")
    elif quarantined != manifest.rows_in or manifest.files:
        yield Fault(
            where,
            f"quarantined with {quarantined} of {manifest.rows_in} rows under {QUARANTINED} "
            f"and {len(manifest.files)} file(s)",
            "all rows and no file",
        )
    yield from check_tree_secrets(asdict(manifest), where=where)


def check_files(store: RunStore, manifest: Manifest, sizes: FileSizes) -> Iterator[Fault]:
    """Each folder has its file, with the recorded size, the rows it should and its hash's name."""
    rows = _rows_of_files(manifest)
    found = [entry.path.rpartition("/")[0] for entry in manifest.files]
    path = manifest.path
    for folder, expected in rows.items():
        if found.count(folder) > 1 or (folder not in found and expected):
            yield Fault(path, f"{found.count(folder)} files in {folder}", "one")
    for entry, folder in zip(manifest.files, found, strict=True):
        if folder not in rows:
            yield Fault(path, f"a file in {folder}", f"only {', '.join(rows)}")
        elif rows[folder] not in (None, entry.num_rows):
            yield Fault(entry.path, f"{entry.num_rows} rows recorded", f"{rows[folder]}")
        stem = f"{folder}/{manifest.shard_id:06d}-{entry.sha256[:16]}."
        if not entry.path.startswith(stem):
            yield Fault(path, f"a file named {entry.path}", f"{stem}*")
        yield from _check_size(store, entry, sizes, is_images=folder == "images")


def _check_size(
    store: RunStore, entry: FileEntry, sizes: FileSizes, *, is_images: bool
) -> Iterator[Fault]:
    """A file has its size; for crops that a clean-up removed, the file that it left."""
    size = sizes.of(entry.path)
    if size is None:
        try:
            left = images_file(store, entry) if is_images else entry
        except ShardError as error:
            yield Fault(entry.path, str(error), "what a clean-up left of it")
            return
        if left == entry:
            yield Fault(entry.path, "missing", f"{entry.num_bytes} bytes")
        elif left is not None:
            yield from _check_size(store, left, sizes, is_images=False)
        return
    if size != entry.num_bytes:
        yield Fault(entry.path, f"{size} bytes", f"{entry.num_bytes} bytes")


def check_flow(
    manifests: Mapping[str, Manifest], *, num_rows: int, has_score: bool, origin: str = "download"
) -> Iterator[Fault]:
    """Rows in of each step are what the one before it gave; reasons carry over to the ledger.

    Args:
        manifests: One shard's, by step; a missing one is left out.
        num_rows: Of the shard, in the plan.
        has_score: Whether the run scores.
        origin: The step that made the images.
    """
    download, score = manifests.get(origin), manifests.get("score")
    select = manifests.get("select")
    if download is not None:
        yield from _same_rows(download, num_rows, "the plan's rows")
    if score is not None and download is not None:
        yield from _same_rows(score, download.kept, f"{origin}'s kept rows")
    if select is None:
        return
    yield from _same_rows(select, num_rows, "the plan's rows")
    if download is None or (has_score and score is None):
        return
    if "publish" in manifests:
        yield from _same_rows(manifests["publish"], select.kept, "select's kept rows")
    before = dict(download.dropped)
    for reason, count in score.dropped.items() if score is not None else ():
        before[reason] = before.get(reason, 0) + count
    _count_taken_down(before, select)
    for reason in sorted({*STEP_KINDS[origin].reasons, *SCORE_REASONS}):
        count, expected = select.dropped.get(reason, 0), before.get(reason, 0)
        if count < expected or (count > expected and reason not in SELECT_REASONS):
            yield Fault(_path(select), f"{count} rows {reason}", f"{expected} as in earlier steps")


def _count_taken_down(before: dict[str, int], select: Manifest) -> None:
    """A shard that was given up has no facts to change: its rows are taken down in the ledger."""
    more = select.dropped.get(TAKEDOWN_REASONS[0], 0) - before.get(TAKEDOWN_REASONS[0], 0)
    if 0 < more <= before.get(QUARANTINED, 0):
        before[QUARANTINED] -= more
        before[TAKEDOWN_REASONS[0]] = before.get(TAKEDOWN_REASONS[0], 0) + more


def _same_rows(manifest: Manifest, expected: int, what: str) -> Iterator[Fault]:
    if manifest.rows_in != expected:
        yield Fault(_path(manifest), f"{manifest.rows_in} rows in", f"{what}, {expected}")


def _path(manifest: Manifest) -> str:
    return manifest.path


def _rows_of_files(manifest: Manifest) -> dict[str, int | None]:
    """Rows that the file in each folder has; None where the manifest does not tell."""
    counts = {
        "kept": manifest.kept,
        "rows_in": manifest.rows_in,
        "dropped": sum(manifest.dropped.values()),
        "some": None,
    }
    return {folder.path: counts[folder.holds] for folder in STEP_KINDS[manifest.step].folders}
