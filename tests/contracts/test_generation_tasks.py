"""Models of inpainting and of upscaling through the job: what is masked, what is enlarged."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from jobs.verify import main as verify
from pipelines.config import ConfigError
from tests.contracts import generation_cases as cases
from tests.contracts.cases import ROOT
from tests.contracts.test_generation_sources import decoded_sources

pytestmark = pytest.mark.slow

TINY = ROOT / "sd_core/presets/tiny/model"
TEXT = "a large red circle in the center on a white background"


def model_of(folder: Path, **settings: int) -> Path:
    """The tiny model with an untrained denoiser of other channels."""
    shutil.copytree(TINY, folder)
    torch.manual_seed(0)
    unet = json.loads((TINY / "unet/config.json").read_text())
    denoiser = UNet2DConditionModel.from_config({**unet, **settings})
    shutil.rmtree(folder / "unet")
    denoiser.save_pretrained(folder / "unet")
    return folder


def reasons_of(run: Path) -> dict[str, str | None]:
    ledger = cases.table(run, "ledger")
    return dict(zip(ledger["prompt_key"].to_pylist(), ledger["reason"].to_pylist(), strict=True))


def test_a_model_of_inpainting_paints_what_is_masked(unharmed_run: Path, tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", in_channels=9)
    sources = decoded_sources(unharmed_run, 2)
    first, second = sources
    rows = [
        {
            "prompt": TEXT,
            "key": "whole",
            "init_key": first,
            "mask": "[16, 16, 48, 48]",
            "strength": 1.0,
        },
        {
            "prompt": TEXT,
            "key": "part",
            "init_key": second,
            "mask": "[0, 0, 32, 64]",
            "strength": 0.5,
        },
        {"prompt": TEXT, "key": "unmasked", "init_key": first},
        {"prompt": TEXT, "key": "alone"},
    ]
    path = cases.write_prompts(tmp_path / "prompts.parquet", rows)
    options = {
        "generate__model": f"{{model: {model}}}",
        "generate__init": f"{{path: {unharmed_run}}}",
    }
    cases.run(cases.configuration(path, tmp_path / "run", **options))
    assert reasons_of(tmp_path / "run") == {
        "whole": None,
        "part": None,
        "unmasked": "mask_invalid",
        "alone": "init_missing",
    }
    images = {k: cases.pixels(v) for k, v in cases.image_files(tmp_path / "run").items()}
    box, half = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    box[16:48, 16:48] = True
    half[:, :32] = True
    for key, source, mask in (("whole-0", first, box), ("part-0", second, half)):
        assert np.array_equal(images[key][~mask], sources[source][~mask]), key
        assert np.abs(images[key][mask] - sources[source][mask]).mean() > 1, key
    assert verify([str(tmp_path / "run"), "--deep"]) == 0


def test_a_model_of_upscaling_enlarges_stored_images(unharmed_run: Path, tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", in_channels=7, num_class_embeds=1000)
    first, second = decoded_sources(unharmed_run, 2)
    rows = [
        {"prompt": TEXT, "key": "large", "init_key": first},
        {"prompt": None, "key": "captioned", "init_key": second},
        {"prompt": TEXT, "key": "small", "init_key": first, "width": 64},
        {"prompt": TEXT, "key": "masked", "init_key": first, "mask": "[16, 16, 48, 48]"},
        {"prompt": TEXT, "key": "gone", "init_key": "f" * 16},
    ]
    path = cases.write_prompts(tmp_path / "prompts.parquet", rows)
    options = {
        "generate__model": f"{{model: {model}}}",
        "generate__init": f"{{path: {unharmed_run}}}",
        "generate__latents": "null",
    }
    cases.run(cases.configuration(path, tmp_path / "run", **options))
    assert reasons_of(tmp_path / "run") == {
        "large": None,
        "captioned": None,
        "small": "size_invalid",
        "masked": "mask_invalid",
        "gone": "init_missing",
    }
    images = {k: cases.pixels(v) for k, v in cases.image_files(tmp_path / "run").items()}
    assert {key: image.shape for key, image in images.items()} == {
        "large-0": (256, 256, 3),
        "captioned-0": (256, 256, 3),
    }
    alone = cases.write_prompts(tmp_path / "alone.parquet", rows[:1])
    cases.run(cases.configuration(alone, tmp_path / "again", **options))
    assert (
        cases.image_files(tmp_path / "again")["large-0"]
        == (cases.image_files(tmp_path / "run")["large-0"])
    )
    assert verify([str(tmp_path / "run"), "--deep"]) == 0


def test_a_noise_level_that_the_model_does_not_have_stops_the_job(
    unharmed_run: Path, tmp_path: Path
) -> None:
    model = model_of(tmp_path / "model", in_channels=7, num_class_embeds=1000)
    rows = [{"prompt": TEXT, "init_key": next(iter(decoded_sources(unharmed_run, 1)))}]
    config = cases.configuration(
        cases.write_prompts(tmp_path / "prompts.parquet", rows),
        tmp_path / "run",
        generate__model=f"{{model: {model}}}",
        generate__init=f"{{path: {unharmed_run}}}",
        generate__latents="null",
        generate__noise_level="1000",
    )
    with pytest.raises(ConfigError, match=r"generate\.noise_level: 1000 .*allowed: 0 to 999"):
        cases.run(config)
    assert not (tmp_path / "run/facts").exists()
