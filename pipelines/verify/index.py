"""What readers start from: each folder's shards.txt and index.parquet against the manifests."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.run.manifest import Manifest
from pipelines.run.record import REVISION_FILE, StepSummary
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table
from pipelines.steps.kinds import STEP_KINDS
from pipelines.verify.fault import Fault, limit, shown
from pipelines.verify.files import check_digest, raise_unreadable

_COLUMNS = ("shard_id", "path", "sha256", "num_bytes", "num_rows")
_OF_BUCKETS = "bucket_rows"
_Row = tuple[int, str, str, int, int, tuple[int, ...] | None]


@dataclass
class StepTotals:
    """What a step's manifests add up to, gathered in shard order: a few hundred bytes a shard."""

    rows_in: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    quarantined: list[int] = field(default_factory=list)
    is_whole: bool = True
    """False once a manifest could not be read: the sums then say nothing."""
    files: dict[str, list[_Row]] = field(default_factory=dict)
    manifests: Any = field(default_factory=hashlib.sha256, repr=False)

    def add(self, manifest: Manifest) -> None:
        """Count one shard."""
        self.manifests.update(manifest.digest.encode())
        self.rows_in += manifest.rows_in
        self.kept += manifest.kept
        self.dropped.update(manifest.dropped)
        if manifest.quarantined is not None:
            self.quarantined.append(manifest.shard_id)
        for entry in manifest.files:
            told = (entry.path, entry.sha256, entry.num_bytes, entry.num_rows, entry.bucket_rows)
            row = (manifest.shard_id, *told)
            self.files.setdefault(entry.path.rpartition("/")[0], []).append(row)


def check_totals(name: str, summary: StepSummary, totals: StepTotals) -> Iterator[Fault]:
    """revision.json's counts of a step are the sums of its manifests."""
    if not totals.is_whole:
        return
    pairs = [
        ("rows in", summary.rows_in, totals.rows_in),
        ("kept", summary.kept, totals.kept),
        ("dropped", dict(sorted(summary.dropped.items())), dict(sorted(totals.dropped.items()))),
        ("quarantined shards", list(summary.quarantined), totals.quarantined),
    ]
    for what, recorded, summed in pairs:
        if recorded != summed:
            yield Fault(
                f"{REVISION_FILE}: {name}", f"{what} {recorded}", f"{summed} as its manifests say"
            )


def check_indexes(
    store: RunStore, name: str, totals: StepTotals, summary: StepSummary
) -> Iterator[Fault]:
    """Every folder of a step lists exactly the files of its manifests, in order, and these and
    what lies beside them are as the revision says."""
    if not totals.is_whole:
        return
    told: set[str] = set()
    for folder in STEP_KINDS[name].paths:
        rows = totals.files.get(folder, [])
        for path, faults in (
            (lines := f"{folder}/shards.txt", _check_shards(store, lines, [r[1] for r in rows])),
            (index := f"{folder}/index.parquet", _check_index(store, index, rows)),
        ):
            for fault in limit(faults, path):
                told.add(path)
                yield fault
    manifests = f"manifests/{name}/{summary.fingerprint}"
    for path, digest in summary.digests.items():
        if path == manifests:
            if totals.manifests.hexdigest() != digest:
                yield Fault(path, "other manifests", f"those of {REVISION_FILE}")
        elif path not in told:
            yield from check_digest(store, path, digest)


def _check_shards(store: RunStore, path: str, expected: list[str]) -> Iterator[Fault]:
    try:
        lines = store.read_bytes(path).decode().splitlines()
    except FileNotFoundError:
        if expected:
            yield Fault(path, "missing", f"{len(expected)} path(s)")
        return
    except UnicodeDecodeError:
        yield Fault(path, "not UTF-8", "one path a line")
        return
    yield from _check_list(path, lines, expected)


def _check_index(store: RunStore, path: str, expected: list[_Row]) -> Iterator[Fault]:
    try:
        table = read_table(store, path)
    except FileNotFoundError:
        if expected:
            yield Fault(path, "missing", f"{len(expected)} row(s)")
        return
    except (OSError, pa.ArrowException) as error:
        raise_unreadable(error)
        yield Fault(path, f"cannot be read ({error})", "Parquet")
        return
    has_buckets = any(row[-1] is not None for row in expected)
    columns = [*_COLUMNS, *([_OF_BUCKETS] if has_buckets else [])]
    if table.column_names != columns:
        yield Fault(path, f"columns {table.column_names}", f"{columns}")
        return
    rows = [_row_of(row) for row in table.to_pylist()]
    yield from _check_list(path, [row[1] for row in rows], [row[1] for row in expected])
    by_path = {row[1]: row for row in expected}
    for row in rows:
        truth = by_path.get(row[1], row)
        if row != truth:
            yield Fault(path, f"{shown(row)}", f"{shown(truth)} as its manifest says")


def _row_of(row: dict[str, Any]) -> _Row:
    by_bucket = row.get(_OF_BUCKETS)
    return (*(row[name] for name in _COLUMNS), None if by_bucket is None else tuple(by_bucket))


def _check_list(path: str, found: list[str], expected: list[str]) -> Iterator[Fault]:
    if found == expected:
        return
    for extra in (Counter(found) - Counter(expected)).elements():
        yield Fault(path, f"lists {shown(extra)}", "only files of this revision, once")
    for missing in (Counter(expected) - Counter(found)).elements():
        yield Fault(path, f"does not list {missing}", "every file of this revision")
    if sorted(found) == sorted(expected):
        yield Fault(path, "files out of order", "the order of the shards")
