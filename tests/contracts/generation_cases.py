"""Small generations with the tiny model, that the contract tests run many ways."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.generate import main
from pipelines.config import load_config
from pipelines.workflows.generate import generate
from pipelines.workflows.generate_config import GenerateJobConfig
from pipelines.workflows.job import JobResult
from tests.contracts.cases import ROOT
from tests.run_cases import committed_files

TINY = ROOT / "configs/generate/tiny.yaml"
_COLORS = ("red", "blue", "green", "yellow", "purple", "orange", "black", "white")
_SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")


def prompts(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    """Different prompts, some with settings of their own."""
    rows: list[dict[str, Any]] = []
    for number in range(start, start + count):
        color, shape = _COLORS[number % 8], _SHAPES[number // 8 % 6]
        row: dict[str, Any] = {
            "prompt": f"a large {color} {shape} number {number} on a gray background",
            "negative_prompt": "blurry" if number % 3 == 0 else None,
            "guidance_scale": 3.0 if number % 4 == 0 else None,
            "seed": number if number % 5 == 0 else None,
            "sampler": "euler_a" if number % 2 else None,
        }
        rows.append(row)
    return rows


def write_prompts(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A Parquet file of prompts."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    pq.write_table(pa.table(columns), path)
    return path


def configuration(prompts_path: Path, output: str | Path, **options: Any) -> GenerateJobConfig:
    """The tiny configuration with two steps and small shards; `section__field=value` changes it."""
    return load_config(GenerateJobConfig, TINY, overrides=_overrides(prompts_path, output, options))


def command(prompts_path: str | Path, output: str | Path, *flags: str, **options: Any) -> int:
    """The exit code of `jobs/generate.py` with that configuration, in this process."""
    arguments = ["--config", str(TINY), *flags]
    for override in _overrides(prompts_path, output, options):
        arguments += ["--set", override]
    return main(arguments)


def _overrides(
    prompts_path: str | Path, output: str | Path, options: Mapping[str, Any]
) -> list[str]:
    settings = {
        "prompts.path": prompts_path,
        "output": output,
        "plan.images_per_shard": 12,
        "generate.batch_size": 4,
        "generate.defaults.num_inference_steps": 2,
        "score": "null",
        "engine.runner": "local",
    }
    settings |= {name.replace("__", "."): value for name, value in options.items()}
    return [f"{name}={value}" for name, value in settings.items()]


def run(config: GenerateJobConfig, **options: Any) -> tuple[JobResult, list[str]]:
    """Run the job in this process; returns its result and what it said."""
    said: list[str] = []
    return generate(config, say=said.append, **options), said


def image_files(output: Path) -> dict[str, bytes]:
    """Every image file of the run by its key."""
    found: dict[str, bytes] = {}
    for path in committed_files(output, "images"):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith((".png", ".webp", ".jpg")):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    key = member.name.partition(".")[0]
                    assert key not in found, f"{key} twice"
                    found[key] = stream.read()
    return found


def members(output: Path, folder: str = "images") -> dict[str, dict[str, Any]]:
    """The JSON of every image of the run, or of those that readers find (`kept`), by its key."""
    found: dict[str, dict[str, Any]] = {}
    for path in committed_files(output, folder):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".json"):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    found[member.name.partition(".")[0]] = json.load(stream)
    return found


def pixels(content: bytes) -> npt.NDArray[np.int16]:
    """An image file's pixels, fit to be subtracted."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.int16)


def table(output: Path, folder: str) -> pa.Table:
    """All rows of a folder's current files."""
    paths = committed_files(output, folder)
    return pa.concat_tables(pq.read_table(path) for path in paths)


def digests(output: Path) -> dict[str, str]:
    """sha256 of every data file and manifest, by path in the run.

    A process killed within a write leaves a `.tmp-` file, which the storage never lists.
    """
    return {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file()
        and (path.suffix in (".tar", ".parquet") or "manifests" in path.parts)
        and not path.name.startswith(".tmp-")
    }
