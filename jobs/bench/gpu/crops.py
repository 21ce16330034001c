"""Crops of its own, and a run on local disk that holds them as the download step's do."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import simplejpeg

from pipelines.rows.ledger import DOWNLOAD_FACTS, LEDGER
from pipelines.run.committed import Committed
from pipelines.run.manifest import SpooledFile, commit_shard
from pipelines.run.store import RunStore
from pipelines.run.tables import write_table
from sd_core.tar_members import SampleTarWriter

_DISTINCT = 16
_QUALITY = 95
_CAPTION = "a photograph of a street in the rain with people under umbrellas, number {}"


def draw_crops(count: int, *, side_px: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(count, side, side, 3) pictures of soft colours with grain, which take a JPEG of quality 95
    about what photographs do (130 KiB at 512 px)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 9, 9, 3)).astype(np.float32)
    places = np.linspace(0, 7.999, side_px)
    low = places.astype(int)
    part = (places - low).astype(np.float32)
    rows = coarse[:, low] * (1 - part[:, None, None]) + coarse[:, low + 1] * part[:, None, None]
    across = part[None, None, :, None]
    soft = rows[:, :, low] * (1 - across) + rows[:, :, low + 1] * across
    soft += rng.normal(0, 6, soft.shape).astype(np.float32)
    drawn: npt.NDArray[np.uint8] = np.clip(soft, 0, 255).astype(np.uint8)
    return drawn


def write_crops(folder: Path, *, shards: int, rows_per_shard: int, side_px: int) -> RunStore:
    """A run of which download and select are committed, all of its rows kept."""
    store = RunStore(str(folder / "run"))
    drawn = draw_crops(min(_DISTINCT, rows_per_shard), side_px=side_px)
    encoded = [simplejpeg.encode_jpeg(np.ascontiguousarray(one), _QUALITY) for one in drawn]
    for shard_id in range(shards):
        rows = [_row(shard_id, row, side_px) for row in range(rows_per_shard)]
        _commit_images(store, shard_id, rows, encoded, folder)
        _commit_verdicts(store, shard_id, rows, folder)
    return store


def images_of(store: RunStore) -> Committed:
    """Of the download step."""
    return Committed(store, "download", "bench")


def verdicts_of(store: RunStore) -> Committed:
    """Of the select step."""
    return Committed(store, "select", "bench")


def _row(shard_id: int, row: int, side_px: int) -> dict[str, Any]:
    number = shard_id << 32 | row
    return {
        "shard_id": shard_id,
        "row": row,
        "key": f"{number:016x}",
        "caption": _CAPTION.format(number),
        "sha256": f"{number:064x}",
        **dict.fromkeys(("width", "height"), side_px),
        **dict.fromkeys(("original_width", "original_height"), 2 * side_px),
    }


def _commit_images(
    store: RunStore, shard_id: int, rows: list[dict[str, Any]], encoded: list[bytes], folder: Path
) -> None:
    tar, facts = folder / f"{shard_id}.tar", folder / f"{shard_id}.parquet"
    with SampleTarWriter(tar) as writer:
        for row in rows:
            files = {"jpg": encoded[row["row"] % len(encoded)], "txt": row["caption"].encode()}
            writer.write(row["key"], files)
    write_table(pa.Table.from_pylist(rows, schema=DOWNLOAD_FACTS), facts)
    _commit(store, "download", shard_id, len(rows), {"images": tar, "facts/download": facts})


def _commit_verdicts(
    store: RunStore, shard_id: int, rows: list[dict[str, Any]], folder: Path
) -> None:
    path = folder / f"{shard_id}-ledger.parquet"
    kept = [{**row, "kept": True} for row in rows]
    write_table(pa.Table.from_pylist(kept, schema=LEDGER), path)
    _commit(store, "select", shard_id, len(rows), {"ledger": path})


def _commit(
    store: RunStore, step: str, shard_id: int, num_rows: int, files: dict[str, Path]
) -> None:
    commit_shard(
        store,
        step=step,
        fingerprint="bench",
        shard_id=shard_id,
        files=[SpooledFile(folder=f, path=path, num_rows=num_rows) for f, path in files.items()],
        rows_in=num_rows,
        kept=num_rows,
        dropped={},
    )
