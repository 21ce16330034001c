"""What Python code outside this project uses: a run and a cache are read, and nothing is loaded."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import pipelines
import sd_core
from jobs import clean, curate, takedown
from pipelines import Run, open_run
from pipelines.run.manifest import ShardError
from pipelines.run.revision_files import IncompleteRunError, NotInRunError
from tests.contracts import cases, generation_cases
from tests.contracts.cases import ROOT, ServedList

HEAVY = ("torch", "ray", "open_clip", "diffusers", "transformers", "img2dataset")
JOBS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("jobs/*.py"), *ROOT.glob("jobs/*/__main__.py")]
    if 'if __name__ == "__main__":' in path.read_text()
)
READ = """
from pipelines import open_run
run = open_run(sys.argv[1])
assert run.ledger().num_rows and run.row(run.kept()["key"][0].as_py())["kept"]
assert [i.pixels.shape for i in run.images()] and [s.raw_latents for s in run.latents()]
from sd_core import open_cache
assert open_cache(sys.argv[1]).num_rows
print(loaded())
"""
HELP = """
import contextlib, io, runpy
for script in sys.argv[1:]:
    sys.argv[:] = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    assert "usage:" in text.getvalue(), script
    assert not loaded(), (script, loaded())
print(loaded())
"""


def python(code: str, *arguments: object) -> str:
    """What a fresh interpreter prints; `loaded()` names what is heavy of its modules."""
    code = f"import sys\ndef loaded(): return [m for m in {HEAVY} if m in sys.modules]\n{code}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip()


def keys(run: Run) -> list[str]:
    return [str(key) for key in run.kept(["key"])["key"].to_pylist()]


def check_whole(run: Run) -> None:
    """What is kept has its image and its latents, and the counts are the run's."""
    ledger = run.ledger().to_pylist()
    assert len(ledger) == run.revision.steps["select"].rows_in
    assert all(row["kept"] == (row["reason"] is None) for row in ledger)
    kept = keys(run)
    assert 0 < len(kept) == run.revision.steps["encode"].kept < len(ledger)
    assert [image.key for image in run.images()] == kept
    samples = {sample.key: sample for sample in run.latents()}  # in the order of its making
    assert sorted(samples) == sorted(kept)
    assert samples[kept[0]].raw_latents.shape == run.cache().spec.latents_shapes[0]
    captions = run.kept()["caption"].to_pylist()
    assert [samples[key].caption for key in kept] == captions


def test_every_name_is_there_and_no_other() -> None:
    for module in (pipelines, sd_core):
        for name in module.__all__:
            assert getattr(module, name).__name__ == name
            assert name in dir(module)
            assert getattr(module, name).__doc__
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute"):
            _ = module.nothing


def test_importing_the_packages_loads_nothing_and_warns_of_nothing() -> None:
    names = "[m for m in sys.modules if m.partition('.')[0] in ('sd_core', 'pipelines')]"
    assert python(f"import sd_core, pipelines\nprint({names})") == "['sd_core', 'pipelines']"


def test_types_ship_with_the_packages() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    for package in ("sd_core", "pipelines"):
        assert "py.typed" in data[package]
        assert (ROOT / package / "py.typed").exists()


def test_the_help_of_a_job_loads_no_torch_and_no_ray() -> None:
    assert {"jobs/curate.py", "jobs/train.py", "jobs/bench/__main__.py"} < set(JOBS)
    assert python(HELP, *JOBS) == "[]"


@pytest.mark.slow
def test_reading_a_run_loads_no_torch_and_no_ray(unharmed_run: Path) -> None:
    assert python(READ, unharmed_run) == "[]"


@pytest.mark.slow
def test_a_curated_run_is_read_whole(unharmed_run: Path, served_list: ServedList) -> None:
    run = open_run(unharmed_run)
    check_whole(run)
    gone = run.row(f"{served_list.server.url}/bad/gone")
    assert (gone["kept"], gone["reason"], gone["source_licence"]) == (False, "http_gone", "CC0")
    first = next(run.images())
    assert run.row(first.facts["url"]) == run.row(first.key) == first.facts
    assert first.pixels.shape == (first.facts["height"], first.facts["width"], 3)
    assert run.table("facts/download", ["key"]).num_rows == cases.NUM_ROWS


@pytest.mark.slow
def test_a_cut_anew_is_the_current_revision_when_it_is_complete(
    unharmed_run: Path, served_list: ServedList, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(unharmed_run, tmp_path / "run"))
    before = open_run(output)
    kept = keys(before)
    command = ["--config", str(ROOT / "configs/curate/demo.yaml"), "--steps"]
    settings = cases.small_settings(served_list.path, output)
    settings["select.rules"] = "[{best_of: {by: aesthetic_v1, num_images: 6}}]"
    overrides = [f"--set={name}={value}" for name, value in settings.items()]
    assert curate.main([*command, "select", *overrides]) == 0
    half = open_run(output)
    assert 0 < len(keys(half)) < len(kept)
    assert [image.key for image in half.images()] == keys(half)
    with pytest.raises(IncompleteRunError, match="encode is not complete"):
        half.latents()
    assert curate.main([*command, "select,encode", *overrides]) == 0
    check_whole(open_run(output))
    assert keys(before) == kept
    with pytest.raises(ShardError, match="changed since the run was opened"):
        before.latents()


@pytest.mark.slow
def test_what_was_taken_down_is_not_read(unharmed_run: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(unharmed_run, tmp_path / "run"))
    before = open_run(output)
    first = next(before.images())
    (tmp_path / "keys.txt").write_text(f"{first.key}\n")
    assert takedown.main([str(output), "--keys", str(tmp_path / "keys.txt")]) == 0
    run = open_run(output)
    check_whole(run)
    assert first.key not in keys(run)
    for name in (first.key, first.facts["url"]):
        with pytest.raises(NotInRunError):
            run.row(name)
    assert clean.main([str(output), "--grace", "0"]) == 0
    check_whole(open_run(output))
    with pytest.raises(ShardError, match="missing"):
        _ = [*before.images()]


@pytest.mark.slow
def test_a_generated_run_is_read_whole(tmp_path: Path) -> None:
    prompts = generation_cases.write_prompts(
        tmp_path / "prompts.parquet",
        [*generation_cases.prompts(4), {"prompt": None}, {"prompt": "a cat", "width": 7}],
    )
    output = tmp_path / "run"
    latents = "{format: webdataset}"
    assert generation_cases.command(prompts, output, generate__latents=latents) == 0
    run = open_run(output)
    check_whole(run)
    rows = run.ledger(["reason"])["reason"].to_pylist()
    assert sorted(filter(None, rows)) == ["prompt_missing", "size_invalid"]
    image = next(run.images())
    assert image.open().format == "PNG"
    assert (image.caption or "") in image.open().info["parameters"]
    assert np.array_equal(np.asarray(image.open()), image.pixels)
    assert image.key in run.table("metadata", ["image_key"])["image_key"].to_pylist()


@pytest.mark.slow
def test_the_examples_of_the_pages_run(unharmed_run: Path, served_list: ServedList) -> None:
    pages = [path.read_text() for path in ROOT.glob("*.md")]
    examples = [code for text in pages for code in re.findall(r"```python\n(.*?)```", text, re.S)]
    examples = [code for code in examples if "import open_run" in code]
    assert examples
    here = {
        "/data/run": str(unharmed_run),
        "https://example.org/cat.jpg": f"{served_list.server.url}/bad/gone",
        "/data/training/model": "preset:tiny/model",
    }
    for code in examples:
        for said, found in here.items():
            code = code.replace(said, found)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, "example", "exec"), {})
        assert printed.getvalue()
