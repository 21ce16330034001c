"""A shard's files once more, without some of its rows; no model runs."""

import io
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.revisions.tombstones import mask_rows
from pipelines.rows.ledger import REJECTS
from pipelines.run.images import damaged
from pipelines.run.manifest import FileEntry, Manifest, SpooledFile, commit_shard
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table, write_table
from sd_core.cache.shards import iterate_shard, open_shard_writer
from sd_core.cache.spec import CacheSpec
from sd_core.tar_members import SampleTarWriter, iterate_members

Hidden = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a rewritten shard goes.

    Attributes:
        fingerprint: Of its step in the new revision.
        inputs: `Manifest.inputs` there.
    """

    store: RunStore
    fingerprint: str
    inputs: str | None = None


def rewrite_download(target: Target, manifest: Manifest, facts: pa.Table, hidden: Hidden) -> None:
    """Images and facts without the hidden rows, which keep their numbers and a reason."""
    facts = mask_rows(facts, hidden)
    with spool_folder() as folder:
        files = []
        images = manifest.file("images")
        kept = int(facts["reason"].null_count)
        if images is not None and kept:
            tar = folder / "images.tar"
            stored = facts.filter(facts["reason"].is_null())["key"].to_pylist()
            _copy_members(target.store, images.path, tar, keys=frozenset(stored))
            files.append(SpooledFile(folder="images", path=tar, suffix=".tar", num_rows=kept))
        files.append(_table(facts, folder, "facts/download"))
        _commit(target, manifest, files, facts)


def rewrite_scores(
    target: Target,
    manifest: Manifest,
    rows: npt.NDArray[np.integer],
    *,
    gone: Collection[str],
) -> None:
    """The scores and their rejects without these rows (numbers in the shard) and their keys."""
    scores = read_table(target.store, _path(manifest, "facts/score"))
    is_left = pc.invert(pc.is_in(scores["row"], value_set=pa.array(rows, scores["row"].type)))
    scores = scores.filter(is_left).combine_chunks()
    with spool_folder() as folder:
        rejects = _left_rejects(target.store, manifest, "facts/score/rejects", gone=gone)
        files = [_table(scores, folder, "facts/score")]
        if rejects.num_rows:
            files.append(_table(rejects, folder, "facts/score/rejects"))
        commit_shard(
            target.store,
            step=manifest.step,
            fingerprint=target.fingerprint,
            shard_id=manifest.shard_id,
            files=files,
            rows_in=scores.num_rows,
            kept=scores.num_rows - rejects.num_rows,
            dropped=Counter(rejects["reason"].to_pylist()),
            inputs=target.inputs,
        )


def rewrite_ledger(
    target: Target,
    manifest: Manifest,
    ledger: pa.Table,
    hidden: Hidden,
    *,
    masked: Mapping[str, str],
) -> None:
    """The ledger with the hidden rows masked, also where a copy names one of them.

    Args:
        masked: What stands for each key that is gone.
    """
    ledger = _rename(mask_rows(ledger, hidden), masked)
    with spool_folder() as folder:
        _commit(target, manifest, [_table(ledger, folder, "ledger")], ledger)


def rewrite_latents(
    target: Target, manifest: Manifest, spec: CacheSpec, *, gone: Mapping[str, str]
) -> None:
    """A latent shard and its rejects without the keys that are gone."""
    store = target.store
    with spool_folder() as folder:
        files = []
        entry = manifest.file("latents")
        num_written = 0
        if entry is not None:
            path = folder / f"latents{Path(entry.path).suffix}"
            with store.open(entry.path) as stream, open_shard_writer(path, spec) as writer:
                source = io.BytesIO(stream.read()) if spec.format == "parquet" else stream
                for sample in iterate_shard(source, spec, name=entry.path):
                    if sample.key not in gone:
                        writer.write(sample)
            num_written = writer.num_written
            if num_written:
                files.append(_spooled(path, "latents", num_written))
        rejects = _left_rejects(store, manifest, "latents/rejects", gone=gone)
        dropped = Counter(rejects["reason"].to_pylist())
        if rejects.num_rows:
            files.append(_table(rejects, folder, "latents/rejects"))
        commit_shard(
            store,
            step=manifest.step,
            fingerprint=target.fingerprint,
            shard_id=manifest.shard_id,
            files=files,
            rows_in=num_written + sum(dropped.values()),
            kept=num_written,
            dropped=dropped,
            inputs=target.inputs,
        )


def _left_rejects(
    store: RunStore, manifest: Manifest, folder: str, *, gone: Collection[str]
) -> pa.Table:
    """A shard's refused rows without the keys that are gone."""
    if manifest.file(folder) is None:
        return REJECTS.empty_table()
    rejects = read_table(store, _path(manifest, folder))
    left = [key not in gone for key in rejects["key"].to_pylist()]
    return rejects.filter(pa.array(left, pa.bool_())).combine_chunks()


def names_any(ledger: pa.Table, masked: Mapping[str, str]) -> bool:
    """Whether a row of a ledger is the copy of a key that is gone."""
    copies = ledger.filter(ledger["duplicate_of"].is_valid())
    named = zip(copies["duplicate_of"].to_pylist(), copies["rule"].to_pylist(), strict=True)
    return any(key in masked or rule.rpartition(" ")[2] in masked for key, rule in named)


def _rename(ledger: pa.Table, masked: Mapping[str, str]) -> pa.Table:
    if not names_any(ledger, masked):
        return ledger
    keys, rules = ledger["duplicate_of"].to_pylist(), ledger["rule"].to_pylist()
    for at, key in enumerate(keys):
        if key is not None:
            text, _, named = rules[at].rpartition(" ")
            keys[at] = masked.get(key, key)
            rules[at] = f"{text} {masked.get(named, named)}"
    for name, values in (("duplicate_of", keys), ("rule", rules)):
        index = ledger.schema.get_field_index(name)
        ledger = ledger.set_column(index, ledger.schema.field(name), pa.array(values, pa.string()))
    return ledger


def _copy_members(store: RunStore, path: str, local: Path, *, keys: frozenset[str]) -> None:
    with store.open(path) as stream, SampleTarWriter(local) as tar:
        for member in iterate_members(stream, fault=damaged(path)):
            if member.is_file and member.key in keys:
                tar.copy(member)


def _commit(
    target: Target, manifest: Manifest, files: list[SpooledFile], rows: pa.Table
) -> Manifest:
    dropped = Counter(rows["reason"].drop_null().to_pylist())
    return commit_shard(
        target.store,
        step=manifest.step,
        fingerprint=target.fingerprint,
        shard_id=manifest.shard_id,
        files=files,
        rows_in=rows.num_rows,
        kept=rows.num_rows - sum(dropped.values()),
        dropped=dropped,
        inputs=target.inputs,
    )


def _path(manifest: Manifest, folder: str) -> str:
    entry: FileEntry | None = manifest.file(folder)
    assert entry is not None
    return entry.path


def _table(table: pa.Table, folder: Path, target: str) -> SpooledFile:
    path = folder / f"{target.replace('/', '-')}.parquet"
    write_table(table, path)
    return _spooled(path, target, table.num_rows)


def _spooled(path: Path, folder: str, num_rows: int) -> SpooledFile:
    return SpooledFile(folder=folder, path=path, suffix=path.suffix, num_rows=num_rows)
