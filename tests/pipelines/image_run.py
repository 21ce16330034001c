"""A small curated run of drawn pictures, committed with the real writers."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from jobs.tiny.drawing import draw
from pipelines.rows.ledger import LEDGER
from pipelines.run.manifest import SpooledFile, commit_shard
from pipelines.run.record import StepIdentity, complete_step
from pipelines.run.recorded_options import check_or_record
from pipelines.run.store import RunStore
from pipelines.run.tables import write_table

SIZE = 64
_IDENTITIES = {name: StepIdentity(step=name, options={}) for name in ("download", "select")}


def key_of(number: int) -> str:
    """The key of picture `number`."""
    return f"{number:016x}"


def is_kept(number: int) -> bool:
    """Every fourth picture is dropped by select."""
    return number % 4 != 3


def write_run(root: Path, *, pictures: int, shards: int = 2, size: int = SIZE) -> Path:
    """A run's folder: lossless crops of `draw(number)`, whose dropped rows are in the tars too."""
    run, scratch = root / "run", root / "scratch"
    scratch.mkdir(parents=True)
    store = RunStore(str(run))
    per_shard = pictures // shards
    for shard_id in range(shards):
        numbers = range(shard_id * per_shard, (shard_id + 1) * per_shard)
        _commit_images(store, shard_id, numbers, scratch, size)
        _commit_ledger(store, shard_id, numbers, scratch, size)
    config = {"image": {"size": size}}
    check_or_record(store, _IDENTITIES.values(), job={"job": "curate", "config": config})
    for name, folder in (("download", "images"), ("select", "ledger")):
        complete_step(store, _IDENTITIES[name], num_shards=shards, folders=[folder], later=())
    return run


def _commit_images(
    store: RunStore, shard_id: int, numbers: range, scratch: Path, size: int
) -> None:
    tar = scratch / "images.tar"
    with tarfile.open(tar, "w") as archive:
        for number in numbers:
            png = io.BytesIO()
            Image.fromarray(draw(number, width=size, height=size).image).save(png, "PNG")
            for suffix, content in (("png", png.getvalue()), ("txt", b"a caption")):
                member = tarfile.TarInfo(f"{key_of(number)}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    _commit(store, "download", shard_id, numbers, tar, folder="images", kept=len(numbers))


def _commit_ledger(
    store: RunStore, shard_id: int, numbers: range, scratch: Path, size: int
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "shard_id": shard_id,
            "row": row,
            "key": key_of(number),
            "kept": is_kept(number),
            "reason": None if is_kept(number) else "aesthetic_v2_below_min",
            "width": size,
            "height": size,
        }
        for row, number in enumerate(numbers)
    ]
    table = scratch / "ledger.parquet"
    write_table(pa.Table.from_pylist(rows, schema=LEDGER), table)
    kept = sum(is_kept(number) for number in numbers)
    _commit(store, "select", shard_id, numbers, table, folder="ledger", kept=kept)


def _commit(
    store: RunStore,
    step: str,
    shard_id: int,
    numbers: range,
    path: Path,
    *,
    folder: str,
    kept: int,
) -> None:
    dropped = {"aesthetic_v2_below_min": len(numbers) - kept}
    commit_shard(
        store,
        step=step,
        fingerprint=_IDENTITIES[step].fingerprint,
        shard_id=shard_id,
        files=[SpooledFile(folder=folder, path=path, num_rows=len(numbers))],
        rows_in=len(numbers),
        kept=kept,
        dropped=dropped,
    )
