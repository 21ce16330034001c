"""Jobs as a user calls them, and what a call came to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.contracts import cases as curation
from tests.contracts.cases import ROOT, ServedList

Main = Callable[[list[str] | None], int]


@dataclass(frozen=True)
class Outcome:
    """What a call printed, and its exit code."""

    code: int
    out: str
    err: str


def call(main: Main, *arguments: object, capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Call a job in this process; argparse's own end is its code too."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    told = capsys.readouterr()
    return Outcome(code, told.out, told.err)


def sets(**options: Any) -> list[str]:
    """`--set` for each; `section__field=value`."""
    found: list[str] = []
    for name, value in options.items():
        found += ["--set", f"{name.replace('__', '.')}={value}"]
    return found


def curate(list_path: Path, output: str | Path, *more: str, **options: Any) -> list[str]:
    """The demo's configuration on a list, in this process, without a latent cache."""
    settings = {
        "source__path": list_path,
        "output": output,
        "download__allow_networks": "[127.0.0.0/8]",
        "download__retries": 0,
        "encode": "null",
        "engine__runner": "local",
        "engine__patience_s": 0,
    }
    config = ROOT / "configs/curate/demo.yaml"
    return ["--config", str(config), *more, *sets(**(settings | options))]


def generate(list_path: Path, output: str | Path, *more: str, **options: Any) -> list[str]:
    """The tiny configuration on a list, in this process, two steps an image, without scores."""
    settings = {
        "prompts__path": list_path,
        "output": output,
        "generate__defaults__num_inference_steps": 2,
        "score": "null",
        "engine__runner": "local",
        "engine__patience_s": 0,
    }
    config = ROOT / "configs/generate/tiny.yaml"
    return ["--config", str(config), *more, *sets(**(settings | options))]


def write_list(path: Path, served: ServedList, rows: slice) -> Path:
    """Some rows of the contract tests' list."""
    pq.write_table(pq.read_table(served.path).slice(rows.start, rows.stop - rows.start), path)
    return path


def write_prompts(path: Path, prompts: Sequence[str | None]) -> Path:
    """A list of prompts."""
    pq.write_table(pa.table({"prompt": pa.array(prompts, pa.string())}), path)
    return path


PICTURES = slice(0, 4)
BAD = slice(curation.NUM_PICTURES, curation.NUM_PICTURES + 2)
"""`http_not_found` and `http_gone`."""
