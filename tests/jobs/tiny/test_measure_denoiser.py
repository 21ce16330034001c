"""The denoiser's measurement: right pictures pass, noise does not, and the grid says which."""

import json
from pathlib import Path

import numpy as np
import pytest

from jobs.tiny.drawing import FIRST_HELD_OUT_SEED, draw
from jobs.tiny.judge import ATTRIBUTES
from jobs.tiny.measure_denoiser import (
    JudgedSamples,
    cells,
    falls_short,
    judged,
    load_tiny,
    sample_images,
    table,
    through_autoencoder,
)
from sd_core.model.denoiser import DenoiserConfig, load_denoiser
from sd_core.sampling.picture_grid import picture_grid
from tests import diffusion_cases

SEEDS = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 12)


@pytest.fixture(scope="module")
def drawn() -> JudgedSamples:
    pictures = [draw(seed) for seed in SEEDS]
    return judged(pictures, np.stack([picture.image for picture in pictures]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser of random weights that predicts velocities."""
    folder = tmp_path_factory.mktemp("model")
    settings = {**diffusion_cases.UNET, "cross_attention_dim": 128}
    module = load_denoiser(DenoiserConfig(settings=settings), device="cpu")
    module.save_pretrained(folder / "unet")  # type: ignore[operator]
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


@pytest.fixture(scope="module")
def of_noise(folder: Path) -> JudgedSamples:
    model = load_tiny(folder)
    assert model.noise_schedule.config.prediction_type == "v_prediction"
    options = {"num_inference_steps": 2, "batch_size": 5}
    return sample_images(model, SEEDS, sampler="dpmpp_2m", guidance_scale=3.0, **options)


def test_drawn_pictures_fall_short_of_nothing(drawn: JudgedSamples) -> None:
    assert drawn.all_right() == 1
    assert falls_short(drawn, drawn) == []
    assert "short" not in table(drawn, drawn, drawn)


def test_a_random_denoiser_falls_short_of_everything(
    drawn: JudgedSamples, of_noise: JudgedSamples
) -> None:
    assert of_noise.images.shape == (12, 64, 64, 3)
    short = falls_short(of_noise, drawn)
    assert [line.split()[0] for line in short] == list(ATTRIBUTES)
    assert table(of_noise, drawn, drawn).count("short") == len(ATTRIBUTES)


def test_a_judge_that_errs_is_no_judge(drawn: JudgedSamples) -> None:
    mistaken = JudgedSamples(
        drawn.subjects[1:] + drawn.subjects[:1], drawn.images, drawn.judgements
    )
    assert any("the judge's shape" in line for line in falls_short(drawn, mistaken))


def test_the_autoencoder_leaves_most_right(drawn: JudgedSamples, folder: Path) -> None:
    pictures = [draw(seed) for seed in SEEDS]
    restored = judged(pictures, through_autoencoder(load_tiny(folder), drawn.images))
    assert min(restored.shares().values()) >= 0.75
    assert not np.array_equal(restored.images, drawn.images)


def test_the_grid_says_what_is_wrong(drawn: JudgedSamples, of_noise: JudgedSamples) -> None:
    assert {cell.fault for cell in cells(drawn)} == {None}
    faults = [cell.fault or "" for cell in cells(of_noise)]
    assert all("no shape" in fault for fault in faults)
    subject = drawn.subjects[0]
    assert cells(drawn)[0].lines[0] == f"{subject.size} {subject.color} {subject.shape}"
    good, bad = (np.asarray(picture_grid(cells(part), columns=4)) for part in (drawn, of_noise))
    assert good.shape[1] == bad.shape[1]
    assert good.shape[0] < bad.shape[0]  # higher by the lines of the faults
    red = [int((grid == (205, 40, 40)).all(axis=-1).sum()) for grid in (good, bad)]
    assert red[0] == 0
    assert red[1] > 12 * 4 * 128
