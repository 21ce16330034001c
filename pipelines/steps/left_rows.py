"""What is left of a shard's files where some of its rows go."""

from collections.abc import Container, Mapping
from pathlib import Path

import pyarrow as pa

from pipelines.rows.ledger import REJECTS
from pipelines.run.checked import open_checked
from pipelines.run.images import damaged
from pipelines.run.manifest import FileEntry, SpooledFile
from pipelines.run.store import RunStore
from pipelines.run.tables import with_column, write_table
from sd_core.cache.formats import iterate_shard, open_shard_writer
from sd_core.cache.spec import CacheSpec
from sd_core.tar_members import SampleTarWriter, iterate_members


def copy_members(
    store: RunStore,
    entry: FileEntry,
    local: Path,
    *,
    keys: Container[str] | None = None,
    without: Container[str] = (),
) -> int:
    """Copy a tar's members of these keys, all by default; how many keys there were."""
    copied = set()
    with open_checked(store, entry) as stream, SampleTarWriter(local) as tar:
        for member in iterate_members(stream, fault=damaged(entry.path)):
            is_left = member.key not in without if keys is None else member.key in keys
            if member.is_file and is_left:
                copied.add(member.key)
                tar.copy(member)
    return len(copied)


def copy_latents(
    store: RunStore, entry: FileEntry, spec: CacheSpec, scratch: Path, *, without: Container[str]
) -> list[SpooledFile]:
    """The samples of a latent shard whose keys are not gone; no file where there is none."""
    path = scratch / f"latents{Path(entry.path).suffix}"
    with open_checked(store, entry) as stream, open_shard_writer(path, spec) as writer:
        for sample in iterate_shard(stream, spec, name=entry.path):
            if sample.key not in without:
                writer.write(sample)
    folder = entry.path.rpartition("/")[0]
    if not writer.num_written:
        return []
    return [
        SpooledFile(
            folder=folder, path=path, num_rows=writer.num_written, bucket_rows=writer.bucket_rows
        )
    ]


def left_rejects(rejects: pa.Table | None, *, without: Container[str]) -> pa.Table:
    """A shard's refused rows without the keys that are gone."""
    if rejects is None:
        return REJECTS.empty_table()
    left = [key not in without for key in rejects["key"].to_pylist()]
    return rejects.filter(pa.array(left, pa.bool_())).combine_chunks()


def names_any(ledger: pa.Table, masked: Mapping[str, str]) -> bool:
    """Whether a row of a ledger is the copy of a key that is gone."""
    copies = ledger.filter(ledger["duplicate_of"].is_valid())
    named = zip(copies["duplicate_of"].to_pylist(), copies["rule"].to_pylist(), strict=True)
    return any(key in masked or rule.rpartition(" ")[2] in masked for key, rule in named)


def rename_copies(ledger: pa.Table, masked: Mapping[str, str]) -> pa.Table:
    """The ledger with a digest where a copy names a key that is gone."""
    if not names_any(ledger, masked):
        return ledger
    keys, rules = ledger["duplicate_of"].to_pylist(), ledger["rule"].to_pylist()
    for at, key in enumerate(keys):
        if key is not None:
            text, _, named = rules[at].rpartition(" ")
            keys[at] = masked.get(key, key)
            rules[at] = f"{text} {masked.get(named, named)}"
    for name, values in (("duplicate_of", keys), ("rule", rules)):
        ledger = with_column(ledger, name, pa.array(values, pa.string()))
    return ledger


def spool_table(table: pa.Table, scratch: Path, folder: str) -> SpooledFile:
    """Write a table that goes to a folder of the run."""
    path = scratch / f"{folder.replace('/', '-')}.parquet"
    write_table(table, path)
    return SpooledFile(folder=folder, path=path, num_rows=table.num_rows)
