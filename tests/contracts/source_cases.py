"""Lists and archives of every kind, curated by the real command without models."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs import curate
from tests.contracts import cases
from tests.run_cases import committed_files


def run_job(source: Path | str, output: Path, *settings: str, options: tuple[str, ...] = ()) -> int:
    """Download and select of `jobs/curate.py`, in this process; returns the exit code."""
    told = [
        f"source.path={source}",
        f"output={output}",
        "score=null",
        "encode=null",
        "select={}",
        "plan.rows_per_shard=3",
        "image.min_side_px=8",
        "download.allow_networks=[127.0.0.0/8]",
        "download.retries=0",
        "engine.runner=local",
        *settings,
    ]
    arguments = ["--config", str(cases.ROOT / "configs/curate/demo.yaml"), *options]
    for setting in told:
        arguments += ["--set", setting]
    return curate.main(arguments)


def ledger(output: Path) -> list[dict[str, Any]]:
    """Every row of the run, in plan order."""
    paths = committed_files(output, "ledger")
    table = pa.concat_tables(pq.read_table(path) for path in paths)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def captions(output: Path) -> list[str | None]:
    """The captions of the rows, in plan order."""
    return [row["caption"] for row in ledger(output)]


def picture(shade: int, name: str = "JPEG") -> bytes:
    """A picture of its own in that format; the shade is that of its red channel."""
    pixels = np.zeros((80, 96, 3), np.uint8)
    pixels[..., 0] = shade
    pixels[:40, :, 1] = np.arange(96, dtype=np.uint8) * 2
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, name)
    return stream.getvalue()


def stored_shades(output: Path) -> dict[str, int]:
    """Key of each stored image, and the mean of its red channel."""
    found = {}
    for path in sorted((output / "_work/images").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    content = tar.extractfile(member)
                    assert content is not None
                    red = np.asarray(Image.open(io.BytesIO(content.read())))[..., 0]
                    found[member.name.removesuffix(".jpg")] = round(float(red.mean()))
    return found


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    """A tar of these members, in this order."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def plan_of(output: Path) -> dict[str, Any]:
    """The run's `plan.json`."""
    tree: dict[str, Any] = json.loads((output / "_work/plan/plan.json").read_text())
    return tree
