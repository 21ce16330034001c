"""A training survives its faults: damaged files, full disks, kills, grids that cannot be drawn."""

import errno
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipelines.run.store import RunStore
from pipelines.training import samples
from tests.contracts import cases
from tests.contracts.training_cases import losses, run, weights_digests

Capsys = pytest.CaptureFixture[str]
LAST = "checkpoints/step-00000020"
WRITES = 39
"""Of the two steps of `SHORT`, from the probe of the output to the lease's end."""
MODEL = "model/unet/diffusion_pytorch_model.safetensors"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": lambda path: path.write_bytes(_flipped(path.read_bytes())),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
}
SHORT: dict[str, Any] = {
    "loop__steps": 2,
    "loop__checkpoint_every": 1,
    "tracking__tensorboard": False,
}


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


@pytest.fixture
def finished(unharmed_training: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(unharmed_training, tmp_path / "out"))


@pytest.fixture
def unpublished(finished: Path) -> Path:
    """The same, stopped after the last step's checkpoint."""
    (finished / "result.json").unlink()
    shutil.rmtree(finished / "model")
    return finished


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        ("flipped", "denoiser_optimizer.safetensors"),
        ("cut", "denoiser.safetensors"),
        ("emptied", "state.json"),
        ("deleted", "denoiser_ema.safetensors"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_by_name_for_the_one_before(
    unpublished: Path,
    unharmed_training: Path,
    latents: Path,
    capsys: Capsys,
    damage: str,
    name: str,
) -> None:
    DAMAGES[damage](unpublished / LAST / name)

    assert run(unpublished.parent, latents) == 0

    said = capsys.readouterr().out
    assert f"passed over: {unpublished}/{LAST}/{name}" in said
    assert "resuming from the checkpoint of step 16" in said
    assert weights_digests(unpublished) == weights_digests(unharmed_training)
    assert losses(unpublished) == losses(unharmed_training)


@pytest.mark.parametrize("name", ["checkpoints/current.json", f"{LAST}/files.json"])
def test_a_checkpoint_needs_one_of_its_two_records(
    unpublished: Path, unharmed_training: Path, latents: Path, capsys: Capsys, name: str
) -> None:
    DAMAGES["flipped"](unpublished / name)

    assert run(unpublished.parent, latents) == 0

    said = capsys.readouterr().out
    assert f"passed over: {unpublished}/{name}" in said
    assert "resuming from the checkpoint of step 20" in said
    assert weights_digests(unpublished) == weights_digests(unharmed_training)


def test_without_a_whole_checkpoint_nothing_is_trained(
    unpublished: Path, latents: Path, capsys: Capsys
) -> None:
    for folder in (unpublished / "checkpoints").glob("step-*"):
        DAMAGES["cut"](folder / "denoiser.safetensors")

    assert run(unpublished.parent, latents) == 1

    assert capsys.readouterr().err.startswith(
        f"failed: {unpublished}/checkpoints: no checkpoint is whole"
    )
    assert not (unpublished / "model").exists()


def test_a_checkpoint_of_the_version_before_is_gone_on_from(
    unpublished: Path, latents: Path, capsys: Capsys
) -> None:
    """It had no files.json, and nothing was sealed."""
    for path in (unpublished / "checkpoints").glob("step-*/files.json"):
        path.unlink()
    for path in (unpublished / "checkpoints/current.json", unpublished / "metrics.jsonl"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        trees = [json.loads(line) for line in lines]
        plain = [{k: v for k, v in tree.items() if k != "own_digest"} for tree in trees]
        path.write_text("".join(f"{json.dumps(tree)}\n" for tree in plain))

    assert run(unpublished.parent, latents) == 0

    said = capsys.readouterr().out
    assert "resuming from the checkpoint of step 20" in said
    assert "passed over" not in said
    assert "metrics.jsonl" not in said


@pytest.mark.parametrize(("damage", "name"), [("flipped", "result.json"), ("cut", MODEL)])
def test_a_damaged_result_is_published_again(
    finished: Path,
    unharmed_training: Path,
    latents: Path,
    capsys: Capsys,
    damage: str,
    name: str,
) -> None:
    DAMAGES[damage](finished / name)

    assert run(finished.parent, latents) == 0

    assert f"{finished}/{name}" in capsys.readouterr().out
    assert weights_digests(finished) == weights_digests(unharmed_training)
    assert run(finished.parent, latents) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_damaged_and_lost_metrics_are_said_and_end_nothing(
    unpublished: Path, latents: Path, capsys: Capsys
) -> None:
    metrics = unpublished / "metrics.jsonl"
    DAMAGES["flipped"](metrics)
    assert run(unpublished.parent, latents) == 0
    assert "metrics.jsonl: 1 damaged line(s) are left out" in capsys.readouterr().out
    assert metrics.read_bytes().count(b"\n") == 19

    DAMAGES["emptied"](metrics)
    (unpublished / "result.json").unlink()
    assert run(unpublished.parent, latents) == 0
    assert "metrics.jsonl: lines of earlier steps are lost" in capsys.readouterr().out


@pytest.fixture(scope="module")
def short(latents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("short")
    assert run(folder, latents, **SHORT) == 0
    return folder / "out"


@pytest.mark.parametrize("where", [0.3, 0.6, 0.9])
def test_a_training_killed_at_a_write_goes_on_to_the_same_bytes(
    short: Path,
    latents: Path,
    tmp_path: Path,
    kill_at_write: Callable[[int | None], Counter[str]],
    where: float,
) -> None:
    kill_at_write(int(where * WRITES))
    with pytest.raises(cases.Killed):
        run(tmp_path, latents, **SHORT)
    kill_at_write(None)
    (tmp_path / "out/lease.json").unlink()  # its holder is this process, which lives
    for folder in ("", "checkpoints", "model"):
        (tmp_path / "out" / folder).mkdir(exist_ok=True)
        (tmp_path / "out" / folder / ".tmp-of-the-killed").write_bytes(b"half")

    assert run(tmp_path, latents, **SHORT) == 0

    assert _published(tmp_path / "out") == _published(short)


@pytest.mark.parametrize(
    ("folder", "number"), [("checkpoints/step-00000002", errno.ENOSPC), ("model", errno.EIO)]
)
def test_a_full_or_broken_disk_is_75_and_the_same_command_goes_on(
    short: Path,
    latents: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capsys,
    number: int,
    folder: str,
) -> None:
    original = RunStore.put_file

    def fail(store: RunStore, local: Path, path: str) -> None:
        if path.startswith(folder):
            raise OSError(number, "the disk says no", path)
        original(store, local, path)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "put_file", fail)
        assert run(tmp_path, latents, **SHORT) == 75
    error = capsys.readouterr().err
    assert "the disk says no" in error
    assert error.endswith("the same command goes on\n")

    assert run(tmp_path, latents, **SHORT) == 0

    assert _published(tmp_path / "out") == _published(short)


def test_a_grid_that_fails_is_told_once_and_ends_no_training(
    short: Path,
    latents: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capsys,
) -> None:
    def fail(*given: Any, **options: Any) -> None:
        while not (tmp_path / "out/checkpoints/current.json").exists():
            time.sleep(0.01)  # a grid holds up no checkpoint
        raise RuntimeError("out of memory")

    monkeypatch.setattr(samples, "generate_images", fail)

    grid = {"samples__prompts": ["a red circle"], "loop__sample_every": 1}
    assert run(tmp_path, latents, **SHORT, **grid) == 0

    said = capsys.readouterr().out
    assert said.count("out of memory") == 1
    assert "step 1: no grid: RuntimeError: out of memory; the training goes on" in said
    assert weights_digests(tmp_path / "out") == weights_digests(short)


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("sampler", "flow_euler", "samples.sampler: sampler 'flow_euler' does not go with"),
        ("num_inference_steps", 5000, "samples.num_inference_steps: found 5000"),
        ("seed", 2**63, "samples.seed: input should be less than"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused_before_anything_is_written(
    latents: Path, tmp_path: Path, capsys: Capsys, setting: str, value: object, told: str
) -> None:
    changes = {"samples__prompts": ["a red circle"], f"samples__{setting}": value}

    assert run(tmp_path, latents, **SHORT, **changes) == 2

    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wandb_s_run_follows_from_the_whole_output_and_has_the_configuration(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []

    class Run:
        def log(self, line: dict[str, Any], *, step: int) -> None:
            begun[-1].setdefault("steps", []).append(step)

        def finish(self) -> None:
            begun[-1]["is_finished"] = True

    fake = ModuleType("wandb")
    fake.init = lambda **options: begun.append(options) or Run()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: fake)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        assert (
            run(tmp_path / name, latents, **{**SHORT, "loop__steps": 1}, tracking__wandb="p") == 0
        )

    assert [one["name"] for one in begun] == ["out", "out"]
    assert begun[0]["id"] != begun[1]["id"]
    assert begun[0]["config"]["loop"]["steps"] == 1
    assert begun[0]["steps"] == [1]
    assert begun[0]["is_finished"]


def _published(output: Path) -> dict[str, bytes]:
    """Every file but those that say how long it took."""
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file()
        and path.name
        not in ("metrics.jsonl", "run.json", "result.json", "loss_curve.png", "README.md")
    }
