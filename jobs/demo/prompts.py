"""The demo's prompts, and a sheet of what came of them."""

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.demo.outcome import list_shards
from jobs.demo.pixels import read_images
from jobs.tiny.drawing import FIRST_HELD_OUT_SEED, draw
from pipelines.run.images import decode_crop
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table
from pipelines.training.samples import draw_grid

_FIRST_SEED: Final = FIRST_HELD_OUT_SEED + 20_000_000
IMAGES_A_PROMPT: Final = 2


def write_prompts(path: Path, *, count: int) -> None:
    """Captions of pictures that nobody drew, as a Parquet list; two images are asked of each."""
    captions = [draw(_FIRST_SEED + number).caption for number in range(count)]
    table = pa.table({"prompt": captions, "num_images": [IMAGES_A_PROMPT] * count})
    pq.write_table(table, path)


def draw_generated(store: RunStore, path: Path) -> int:
    """Write a labelled grid of a generation's kept images as a PNG; returns how many there are."""
    tables = [read_table(store, shard) for shard in list_shards(store, "ledger")]
    ledger = pa.concat_tables(tables)
    kept = ledger.filter(ledger["kept"])
    files = read_images(store, kept["key"].to_pylist())
    images = [decode_crop(files[key], key) for key in kept["key"].to_pylist()]
    path.write_bytes(draw_grid(np.stack(images), kept["caption"].to_pylist()))
    return len(images)
