"""XL in two stages by the command: what diffusers' own two pipelines make, to 1/255."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest

from jobs.verify import main as verify
from sd_core.model.latent_diffusion import LatentDiffusionConfig, load_latent_diffusion
from sd_core.model.latent_diffusion_saving import save_latent_diffusion
from sd_core.sampling.noise import row_generators
from tests import diffusion_cases
from tests.contracts import generation_cases as cases

PROMPTS = ["a red circle", "two green stars", "a blue ring"]
SEEDS = [5, 6, 7]
NEGATIVES = ["", "grey", ""]
SWITCH = 0.6
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "another noise": ("scheduler/scheduler_config", {"beta_end": 0.02}),
    "another scale": ("vae/config", {"scaling_factor": 0.5}),
    "another width": ("unet/config", {"projection_class_embeddings_input_dim": 56}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    return (
        diffusion_cases.diffusers_xl_folder(root / "base"),
        diffusion_cases.diffusers_refiner_folder(root / "refiner"),
    )


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"prompt": prompt, "seed": seed, "negative_prompt": negative}
        for prompt, seed, negative in zip(PROMPTS, SEEDS, NEGATIVES, strict=True)
    ]
    return cases.write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.parquet", rows)


def options(folders: tuple[Path, Path], **more: Any) -> dict[str, Any]:
    base, refiner = folders
    return {
        "generate__model__model": base,
        "generate__refiner__model__model": refiner,
        "generate__refiner__switch_at": SWITCH,
        "generate__defaults__num_inference_steps": 5,
        "generate__defaults__guidance_scale": 4.0,
        "select": "{}",
        **more,
    }


def of_diffusers(folders: tuple[Path, Path], sampler: str, row: int) -> Any:
    base: Any = diffusers.StableDiffusionXLPipeline
    refiner: Any = diffusers.StableDiffusionXLImg2ImgPipeline
    shared: dict[str, Any] = {
        "prompt": PROMPTS[row],
        "negative_prompt": NEGATIVES[row] or None,
        "num_inference_steps": 5,
        "guidance_scale": 4.0,
        "generator": row_generators([SEEDS[row]]),
    }
    opened = []
    for family, folder in ((base, folders[0]), (refiner, folders[1])):
        pipeline = family.from_pretrained(folder, add_watermarker=False)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = getattr(diffusers, sampler).from_config(pipeline.scheduler.config)
        opened.append(pipeline)
    latents = opened[0](denoising_end=SWITCH, output_type="latent", **shared).images
    made = opened[1](image=latents, denoising_start=SWITCH, output_type="pil", **shared)
    return np.asarray(made.images[0], np.int16)


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        ("euler", "EulerDiscreteScheduler"),
        ("heun", "HeunDiscreteScheduler"),
    ],
)
def test_images_are_those_of_diffusers_two_pipelines(
    folders: tuple[Path, Path], prompts: Path, tmp_path: Path, sampler: str, scheduler: str
) -> None:
    output = tmp_path / "run"
    found = options(folders, generate__defaults__sampler=sampler, generate__batch_size=2)
    assert cases.command(prompts, output, **found) == 0
    files = cases.image_files(output)
    rows = {row["prompt"]: row for row in cases.table(output, "metadata").to_pylist()}
    for row in (0, 1):
        ours = cases.pixels(files[rows[PROMPTS[row]]["image_key"]])
        assert ours.std() > 5
        assert np.abs(ours - of_diffusers(folders, scheduler, row)).max() <= 1
    assert verify([str(output)]) == 0
    assert " refined by " in rows[PROMPTS[0]]["model"]


def test_a_refiners_folder_comes_back_to_the_byte(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    config = LatentDiffusionConfig(model=str(folders[1]))
    save_latent_diffusion(load_latent_diffusion(config, device="cpu"), tmp_path / "ours")
    for path in folders[1].rglob("*.safetensors"):
        ours = tmp_path / "ours" / path.relative_to(folders[1])
        assert ours.read_bytes() == path.read_bytes()
    index = json.loads((tmp_path / "ours/model_index.json").read_text())
    assert index["requires_aesthetics_score"]
    assert index["_class_name"] == "StableDiffusionXLImg2ImgPipeline"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("swapped", "generate.model: model: this is XL's refiner"),
        ("no refiner", "generate.refiner.model: this is no refiner of XL's"),
        ("another noise", "generate.refiner.model: its noise schedule is not the model's"),
        ("another scale", "its autoencoder's scaling_factor is 0.5"),
        ("another width", "projection_class_embeddings_input_dim is 56, and the second"),
    ],
)
def test_a_refiner_that_could_not_go_on_is_refused_before_anything_is_written(
    folders: tuple[Path, Path],
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: str,
    message: str,
) -> None:
    base, refiner = folders
    if change == "swapped":
        base, refiner = refiner, base
    elif change == "no refiner":
        refiner = base
    else:
        refiner = shutil.copytree(refiner, tmp_path / "refiner")
        part, changed = CHANGES[change]
        path = refiner / f"{part}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    found = options((base, refiner))
    assert cases.command(prompts, tmp_path / "run", **found) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "run").exists()
