"""A run whose crops are committed as download does it; captions and sizes of originals are real."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.rows.ledger import DOWNLOAD_FACTS, LEDGER
from pipelines.run.committed import Committed
from pipelines.run.manifest import SpooledFile, commit_shard
from pipelines.run.store import RunStore
from pipelines.run.tables import write_table
from sd_core.errors import InputError
from sd_core.tar_members import SampleTarWriter

_CAPTIONS = "img2dataset_test_10000.parquet"


@dataclass(frozen=True, kw_only=True)
class CropCase:
    """One shard: `images` and `verdicts` of its run, and the same as files, for others."""

    store: RunStore
    images: Committed
    verdicts: Committed
    side: int
    files: Sequence[Path]
    captions: Sequence[str]


def make_crops(
    folder: Path, *, photos: Path, metadata: Path, num_images: int, side: int
) -> CropCase:
    """Crop photographs (each as often as it takes), and commit them, all kept.

    Raises:
        InputError: there are no photographs or no captions.
    """
    found = sorted(photos.glob("*.jpg"))
    if not found or not (metadata / _CAPTIONS).is_file():
        raise InputError(f"{photos}, {metadata / _CAPTIONS}: not there")
    captions = pq.read_table(metadata / _CAPTIONS)["TEXT"].to_pylist()
    store = RunStore(str(folder / "run"))
    files, rows = [], []
    with SampleTarWriter(folder / "crops.tar") as tar:
        for number in range(num_images):
            with Image.open(found[number % len(found)]) as picture:
                width, height = picture.size
                short = min(width, height)
                left, top = (width - short) // 2, (height - short) // 2
                square = picture.convert("RGB").crop((left, top, left + short, top + short))
            stream = io.BytesIO()
            square.resize((side, side), Image.Resampling.LANCZOS).save(stream, "JPEG", quality=95)
            content = stream.getvalue()
            files.append(folder / f"{number:06d}.jpg")
            files[-1].write_bytes(content)
            row = {
                **{"shard_id": 0, "row": number, "key": f"{number:016x}", "reason": None},
                **{"original_width": width, "original_height": height},
                **{"width": side, "height": side, "caption": captions[number % len(captions)]},
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            rows.append(row)
            told = {"jpg": content, "json": json.dumps(row).encode()}
            tar.write(row["key"], {**told, "txt": (row["caption"] or "").encode()})
    facts, ledger = folder / "facts.parquet", folder / "ledger.parquet"
    write_table(pa.Table.from_pylist(rows, schema=DOWNLOAD_FACTS), facts)
    write_table(pa.Table.from_pylist([row | {"kept": True} for row in rows], schema=LEDGER), ledger)
    made = {"facts/download": facts, "images": folder / "crops.tar"}
    return CropCase(
        store=store,
        images=_committed(store, "download", made, num_images),
        verdicts=_committed(store, "select", {"ledger": ledger}, num_images),
        side=side,
        files=files,
        captions=[row["caption"] or "" for row in rows],
    )


def _committed(store: RunStore, step: str, files: dict[str, Path], rows: int) -> Committed:
    spooled = [SpooledFile(folder=name, path=path, num_rows=rows) for name, path in files.items()]
    commit_shard(
        store,
        step=step,
        fingerprint="0" * 16,
        shard_id=0,
        files=spooled,
        rows_in=rows,
        kept=rows,
        dropped={},
    )
    return Committed(store, step, "0" * 16)
