"""What a killed worker leaves in the temporary folder, the next one removes, of whatever kind."""

import multiprocessing
import os
import signal
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from jobs import curate, generate
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from tests.contracts import cases, generation_cases
from tests.contracts.source_cases import picture, write_tar

pytestmark = pytest.mark.e2e

_JOBS = {"curate": curate, "generate": generate}
_FIRST_FILE = {  # what a worker of a step publishes when its shard's spool folder is full
    ("curate", "download"): "images/",
    ("curate", "score"): "facts/score/",
    ("curate", "encode"): "latents/",
    ("generate", "generate"): "images/",
}


def run_until_killed(job: str, arguments: list[str], temporary: str, first_file: str) -> None:
    """A job that dies by SIGKILL where it would publish the file."""
    original = RunStore.put_file

    def put_file(self: RunStore, local: Path, path: str) -> None:
        if path.startswith(first_file):
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, local, path)

    RunStore.put_file = put_file  # type: ignore[method-assign]
    tempfile.tempdir = temporary
    _JOBS[job].main(arguments)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that have imported what the jobs need, and start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "diffusers.models", "open_clip"])
    forkserver.ensure_running()  # its socket lies in the temporary folder, whose path must be short
    return context


@pytest.mark.parametrize("job", ["curate", "generate"])
def test_the_next_worker_removes_what_a_killed_one_left_and_nothing_of_a_living_one(
    processes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    arguments = _arguments(job, tmp_path)
    with spool_folder() as living:
        left: set[Path] = set()
        for first_file in (name for (of, _), name in _FIRST_FILE.items() if of == job):
            process = processes.Process(
                target=run_until_killed, args=(job, arguments, str(temporary), first_file)
            )
            process.start()
            process.join(120)
            assert process.exitcode == -signal.SIGKILL
            found = set(temporary.glob("latent-foundry-*")) - {living}
            assert len(found) == 1, "the killed one's, and no other"
            assert any(path.stat().st_size for path in next(iter(found)).iterdir())
            assert not found & left
            left = found
        assert _JOBS[job].main(arguments) == 0
        assert list(temporary.glob("latent-foundry-*")) == [living]


def _arguments(job: str, folder: Path) -> list[str]:
    settings = {"output": folder / "run", "engine.runner": "local"}
    if job == "curate":
        members = [(f"{n}.png", picture(40 * n, "PNG")) for n in range(4)]
        members += [(f"{n}.txt", f"picture {n}".encode()) for n in range(4)]
        settings["source.path"] = write_tar(folder / "a.tar", members)
        settings |= {"select": "{}", "image.min_side_px": 8}
        config = cases.ROOT / "configs/curate/demo.yaml"
    else:
        prompts = generation_cases.prompts(4)
        settings["prompts.path"] = generation_cases.write_prompts(folder / "p.parquet", prompts)
        settings |= {"score": "null", "generate.defaults.num_inference_steps": 1}
        config = generation_cases.TINY
    told = [f"--set={name}={value}" for name, value in settings.items()]
    return ["--config", str(config), *told]
