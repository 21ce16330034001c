"""jobs/train.py with task: autoencoder, on a small curated run, in this process."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from PIL import Image

from jobs import train
from jobs.tiny.drawing import draw
from pipelines.training import autoencoder_worker
from pipelines.training.job import load_train_config
from sd_core.model.autoencoder import encode_images, load_autoencoder
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.training.image_batches import as_input
from sd_core.training.task import Place
from tests.contracts.training_cases import ROOT, weights_digests, write_changed
from tests.pipelines.image_run import is_kept, write_run
from tests.sd_core.training.test_autoencoder_task import CODEBOOK, SETTINGS

PICTURES, SIZE = 40, 16


def write_config(path: Path, run: Path, output: Path, **changes: Any) -> Path:
    """A configuration of thirty steps; `section__field=value` changes it further."""
    tree: dict[str, Any] = {
        "task": "autoencoder",
        "output": str(output),
        "data": [{"path": str(run)}],
        "random_flip": True,
        "model": {"settings": SETTINGS, "initial_log_variance": -6.0},
        "losses": {
            "perceptual": {"weight": 0.0},
            "discriminator": {"start_step": 24, "base_channels": 4, "num_layers": 2},
        },
        "optimizer": {"learning_rate": 5e-3, "warmup_steps": 1, "schedule": "cosine"},
        "loop": {
            "steps": 30,
            "batch_size": 8,
            "precision": "fp32",
            "log_every": 1,
            "checkpoint_every": 10,
            "sample_every": 15,
            "ema_decay": 0.5,
        },
        "order": {"num_streams": 4},
        "samples": {"held_out": 6, "shown": 4},
        "engine": {"runner": "local", "torch_threads": 1},
        "peak_tflops": 0.1,
    }
    return write_changed(path, tree, changes)


def start(folder: Path, run: Path, **changes: Any) -> int:
    config = write_config(folder / "config.yaml", run, folder / "out", **changes)
    return train.main(["--config", str(config)])


def lines_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("curated"), pictures=PICTURES, size=SIZE)


@pytest.fixture(scope="module")
def trained(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert start(folder, run) == 0
    return folder / "out"


def test_the_result_is_an_autoencoder_that_every_job_can_load(trained: Path) -> None:
    loaded = load_autoencoder(AutoencoderConfig(model=str(trained / "model")), device="cpu")
    pixels = [draw(n, width=SIZE, height=SIZE).image for n in range(PICTURES) if is_kept(n)]
    images = as_input(np.stack(pixels[6:]))

    moments = encode_images(loaded, images, form="moments")

    mean, log_variance = moments.chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    latents = mean + (0.5 * log_variance).exp() * noise
    assert float((latents * loaded.scaling_factor).std()) == pytest.approx(1.0, abs=0.01)
    result = json.loads((trained / "result.json").read_text())
    assert result["scaling_factor"] == loaded.scaling_factor


def test_the_card_and_the_result_say_what_it_was_made_of(trained: Path, run: Path) -> None:
    card = (trained / "model/README.md").read_text()
    result = json.loads((trained / "result.json").read_text())

    assert "30 steps of 8 samples" in card
    assert "# An autoencoder trained" in card
    assert f"scaling_factor: {result['scaling_factor']:g}" in card
    assert result["data"][0]["rows"] == 24
    assert result["data"][0]["sha256"][:16] in card


def test_held_out_psnr_is_recorded_and_rises_and_grids_are_drawn(trained: Path) -> None:
    lines = lines_of(trained)
    ratios = [line["held_out_psnr_db"] for line in lines if "held_out_psnr_db" in line]
    differences = [line["generator/l1"] for line in lines if "generator/l1" in line]

    assert len(ratios) == 2
    assert ratios[1] > ratios[0] > 0
    assert len(differences) == 30
    assert sum(differences[-5:]) < 0.8 * sum(differences[:5])
    assert sum("discriminator/loss" in line for line in lines) == 6
    originals = [draw(n, width=SIZE, height=SIZE).image for n in range(8) if is_kept(n)][:4]
    with Image.open(trained / "samples/step-00000030.png") as grid:
        assert grid.size == (4 * (128 + 8) + 8, 8 + 2 * 128 + 8)
        for place, original in enumerate(originals):
            assert grid.getpixel((8 + place * 136, 8)) == tuple(original[0, 0])


def test_a_stopped_training_resumes_to_the_same_bits(
    run: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_batches = autoencoder_worker.AutoencoderTraining.batches

    def fail_at_26(self: Any, place: Any, *, start_step: int) -> Any:
        found = draw_batches(self, place, start_step=start_step)
        yield from (next(found) for _ in range(26 - start_step))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(autoencoder_worker.AutoencoderTraining, "batches", fail_at_26)
        assert start(tmp_path, run) == 130
    assert not (tmp_path / "out/result.json").exists()

    assert start(tmp_path, run) == 0

    assert weights_digests(tmp_path / "out") == weights_digests(trained)
    steady = ("images_per_second", "seconds", "flops_share", "own_digest")
    without_times = [
        [{name: value for name, value in line.items() if name not in steady} for line in lines]
        for lines in (lines_of(tmp_path / "out"), lines_of(trained))
    ]
    assert without_times[0] == without_times[1]


def test_a_finished_training_repeated_does_nothing_and_another_is_refused(
    run: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights_digests(trained)

    assert start(trained.parent, run) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert start(trained.parent, run, losses__discriminator__weight=0.1) == 2
    assert "losses.discriminator.weight: was 0.5, is now 0.1" in capsys.readouterr().err
    assert weights_digests(trained) == before


def test_a_codebook_is_trained_from_the_weights_of_an_earlier_one(
    run: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"loop__steps": 2, "losses__discriminator__weight": 0.0}
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    assert start(first, run, model={"settings": CODEBOOK}, **changes) == 0

    assert start(second, run, model={"model": str(first / "out/model")}, **changes) == 0

    found = load_autoencoder(AutoencoderConfig(model=str(second / "out/model")), device="cpu")
    assert found.kind == "vq"
    assert weights_digests(second / "out") != weights_digests(first / "out")


@pytest.mark.parametrize("backbone", [None, "/nowhere/vgg16-397923af.pth"])
def test_lpips_without_its_weights_is_refused_before_anything_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], backbone: str | None
) -> None:
    perceptual = {"weight": 1.0, "backbone": backbone}

    assert start(tmp_path, run, losses__perceptual=perceptual) == 2

    assert "losses.perceptual.backbone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [("missing", "no curated run"), ("truncated", "its manifest says"), ("size", "multiple")],
)
def test_bad_images_are_refused_before_the_first_step(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, message: str
) -> None:
    copy = tmp_path / "run"
    if damage == "size":
        copy = write_run(tmp_path / "odd", pictures=16, size=17)
    else:
        shutil.copytree(run, copy)
    if damage == "missing":
        (copy / "run.json").unlink()
    elif damage == "truncated":
        tar = next((copy / "_work/images").glob("*.tar"))
        tar.write_bytes(tar.read_bytes()[:-700])

    assert start(tmp_path, copy) == 2

    assert message in capsys.readouterr().err
    assert not (tmp_path / "out/checkpoints").exists()


def test_a_wrong_configuration_names_every_fault(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(tmp_path, run, losses__l1_wait=1.0, model__settings={"_class_name": "Foo"}) == 2
    errors = capsys.readouterr().err
    assert "did you mean 'l1_weight'" in errors
    assert "AutoencoderKL or VQModel" in errors

    assert start(tmp_path, run, task="decoder") == 2
    assert "task" in capsys.readouterr().err

    assert start(tmp_path, run, loop__compile=True) == 2
    assert "adaptive weight" in capsys.readouterr().err


def test_the_tiny_recipe_has_the_preset_s_architecture() -> None:
    config: Any = load_train_config(ROOT / "configs/train/autoencoder_tiny.yaml", overrides=[])
    preset = json.loads((ROOT / "sd_core/presets/tiny/autoencoder/config.json").read_text())

    assert config.task == "autoencoder"
    assert config.model.settings.items() <= preset.items()
    assert set(preset) - set(config.model.settings) == {
        "_diffusers_version",
        "act_fn",
        "force_upcast",
        "latents_mean",
        "latents_std",
        "scaling_factor",
        "shift_factor",
        "use_post_quant_conv",
        "use_quant_conv",
    }


def _work(rank: int, config: str, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    place = Place(rank=rank, world_size=2, device=torch.device("cpu"))
    loaded: Any = load_train_config(config, overrides=[])
    autoencoder_worker.train_autoencoder_worker(loaded, place, fingerprint="f", say=lambda _: None)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_agree_with_one_discriminator_and_all(run: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"loop__steps": 2}
    changes["losses__discriminator"] = {"start_step": 0, "base_channels": 4, "num_layers": 2}
    config = write_config(tmp_path / "config.yaml", run, tmp_path / "together", **changes)
    torch.multiprocessing.spawn(_work, args=(str(config), str(tmp_path / "meeting")), nprocs=2)
    assert start(tmp_path, run, **changes) == 0

    together, alone = lines_of(tmp_path / "together"), lines_of(tmp_path / "out")
    # After a step, Adam has made signs of gradients that are zero but for rounding.
    first = ("loss", "l1", "adversarial", "adaptive_weight", "grad_norm")
    for name in (*(f"generator/{one}" for one in first), "discriminator/grad_norm"):
        assert together[0][name] == pytest.approx(alone[0][name], rel=1e-3), name
    assert together[1]["generator/l1"] == pytest.approx(alone[1]["generator/l1"], rel=2e-2)
