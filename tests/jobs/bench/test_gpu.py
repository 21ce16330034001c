"""`jobs.bench gpu` is proven on a CPU, before a GPU is lent for minutes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from jobs.bench.gpu.item import Figure, Place
from jobs.bench.gpu.measure import GpuBench, Outcome, line_of, measure_gpu
from jobs.bench.gpu.names import COMPILED, DEADLINES_S
from jobs.hardware import describe_hardware

ROOT = Path(__file__).resolve().parents[3]
NEEDLESS = ("ray", "img2dataset", "duckdb", "faiss", "aiohttp")
_BLOCK = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NEEDLESS!r}:
            raise ModuleNotFoundError(f"{{name}} is not needed here", name=name)

sys.meta_path.insert(0, Block())
"""


def test_every_item_is_done_with_tiny_models_on_a_cpu_without_what_the_jobs_need(
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_BLOCK)
    names = [name for name in DEADLINES_S if name not in COMPILED]
    result = subprocess.run(
        [
            *(sys.executable, "-m", "jobs.bench", "gpu", "--tiny", "--budget", "500"),
            *("--json", str(tmp_path / "gpu.json"), "--item", *names),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    tree = json.loads((tmp_path / "gpu.json").read_text())
    assert [item["name"] for item in tree["items"]] == names
    for item in tree["items"]:
        assert item["state"] == "done", item
        assert item["figures"], item
    told = [figure["name"] for item in tree["items"] for figure in item["figures"]]
    assert "an image in other company: the same bytes" in told
    assert "scores in other company: the same bytes" in told
    assert not [name for name in told if "NOT" in name]
    rates = [figure for item in tree["items"] for figure in item["figures"] if figure["limit"]]
    assert rates
    assert all(figure["share"] > 0 for figure in rates)
    assert tree["device"] == "CPU"


class _Child:
    """Finds one figure, then takes forever; or fails."""

    def __init__(self) -> None:
        self.ended = 0
        self._news: list[Any] = []

    def starting_s(self, seconds: float) -> float:
        return 0.0

    def begin(self, name: str, place: Place) -> None:
        figure = Figure(
            name="a rate", value=50.0, unit="images/s", limit=100.0, peak_bytes=2 * 10**9
        )
        self._news = ["RuntimeError: CUDA error"] if name == "copies" else [figure]

    def next(self, timeout_s: float) -> Any:
        if self._news:
            return self._news.pop(0)
        raise TimeoutError

    def end(self) -> None:
        self.ended += 1


def test_what_was_found_before_an_end_is_kept_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: Any
) -> None:
    child = _Child()
    monkeypatch.setattr("jobs.bench.gpu.measure.Child", lambda: child)
    path = tmp_path / "gpu.json"
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        assert line.startswith("torch ") or json.loads(path.read_text())["items"]

    bench = GpuBench(names=["mask", "copies", "clip"], budget_s=60, is_tiny=False, json=path)
    outcomes = measure_gpu(bench, describe_hardware(), say=say)
    assert [each.state for each in outcomes] == ["too slow", "failed", "too slow"]
    assert child.ended == 3
    assert "mask: a rate: 50 images/s, 50% of 100, 2.0 GB" in lines
    kept = json.loads(path.read_text())["items"]
    assert [len(item["figures"]) for item in kept] == [1, 0, 1]
    assert kept[1]["error"] == "RuntimeError: CUDA error"
    late = GpuBench(names=["mask"], budget_s=1, is_tiny=False, json=None)
    assert [each.state for each in measure_gpu(late, describe_hardware(), say=say)] == [
        "no time left"
    ]
    assert line_of(Figure(name="held")) == "held"
    assert Outcome(name="mask").state == "running"
