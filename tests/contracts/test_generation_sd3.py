"""Generation with Stable Diffusion 3 and XL folders, by the command; what their caches hold."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import yaml

from jobs.train import main as train
from jobs.verify import main as verify
from sd_core.cache.latent_cache import open_cache
from sd_core.cache.reading import check_contents
from sd_core.sampling.noise import row_generators
from tests import diffusion_cases
from tests.contracts import generation_cases as cases
from tests.contracts import training_cases

ROWS: list[dict[str, Any]] = [
    {"prompt": "a red circle", "seed": 3, "negative_prompt": "grey"},
    {"prompt": "a caption that is a good deal longer than clip reads", "seed": 4},
    {"prompt": "a tall one", "height": 48},
    {"prompt": "one that no patch of two fits", "width": 34},
    {"prompt": "two green stars", "guidance_scale": 1.0},
]
OPTIONS: dict[str, Any] = {
    "generate__defaults__sampler": "null",
    "generate__latents__prompt_embeds": "false",
    "generate__model__max_sequence_length": 20,
    "plan__images_per_shard": 2,
}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.parquet", ROWS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffusion_cases.diffusers_sd3_folder(tmp_path_factory.mktemp("models") / "sd3")


@pytest.fixture(scope="module")
def made(prompts: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sd3") / "run"
    assert cases.command(prompts, output, generate__model__model=folder, **OPTIONS) == 0
    return output


def test_prompts_become_images_and_a_ledger_that_verify(made: Path) -> None:
    ledger = cases.table(made, "ledger").to_pylist()
    assert [row["reason"] for row in ledger] == [
        None,
        None,
        "image_of_another_size",
        "size_invalid",
        None,
    ]
    refused = ledger[3]["error_message"]
    assert refused == "width: found 34, allowed are multiples of 4 up to 96"  # of 24 positions
    assert len(cases.image_files(made)) == 4
    facts = {row["prompt"]: row for row in cases.table(made, "metadata").to_pylist()}
    assert facts["a red circle"]["sampler"] == "flow_euler"
    assert facts[ROWS[1]["prompt"]]["caption_is_cut"]
    assert verify([str(made)]) == 0
    cache = open_cache(str(made / "latents"))
    assert cache.num_rows == 3  # the tall one is apart
    assert cache.spec.latents_shapes == ((16, 16, 16),)
    assert check_contents([cache], rank=0, world_size=1) == 3


def test_an_image_is_that_of_diffusers_own_pipeline(made: Path, folder: Path) -> None:
    family: Any = diffusers.StableDiffusion3Pipeline
    pipeline = family.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    [fact] = [row for row in cases.table(made, "metadata").to_pylist() if row["seed"] == 3]
    made_there = pipeline(
        fact["prompt"],
        negative_prompt=fact["negative_prompt"],
        guidance_scale=fact["guidance_scale"],
        num_inference_steps=fact["num_inference_steps"],
        generator=row_generators([3]),
        max_sequence_length=20,
    )
    theirs = np.asarray(made_there.images[0], np.int16)
    ours = cases.pixels(cases.image_files(made)[fact["image_key"]])
    assert ours.std() > 5
    assert np.abs(ours - theirs).max() <= 1


def test_a_killed_run_goes_on_to_the_same_bytes(
    prompts: Path, folder: Path, made: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    config = cases.configuration(prompts, output, generate__model__model=folder, **OPTIONS)
    path = tmp_path / "generate.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    process = subprocess.Popen(
        [sys.executable, str(cases.ROOT / "jobs/generate.py"), "--config", str(path)],
        env={**os.environ, "PYTHONPATH": str(cases.ROOT)},
        stdout=-3,
        stderr=-3,
    )
    manifests = output / "_work/manifests/generate"
    while process.poll() is None and not any(manifests.glob("*/0*.json")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert cases.command(prompts, output, generate__model__model=folder, **OPTIONS) == 0
    assert cases.digests(output) == cases.digests(made)


def test_text_that_no_cache_holds_is_refused_before_anything_is_written(
    prompts: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**OPTIONS, "generate__latents__prompt_embeds": "true"}
    code = cases.command(prompts, tmp_path / "run", generate__model__model=folder, **options)
    said = capsys.readouterr().err.strip()
    assert code == 2
    assert "generate.latents.prompt_embeds: found true" in said
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


def test_training_it_from_a_cache_of_clips_ids_is_refused_before_anything_is_written(
    made: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = training_cases.write_config(
        tmp_path / "train.yaml",
        made / "latents",
        tmp_path / "trained",
        model={"model": str(folder)},
    )
    assert train(["--config", str(path)]) == 2
    said = capsys.readouterr().err.strip()
    assert "text_encoder_3 is a T5 with a tokenizer of its own" in said
    assert "\n" not in said
    assert not (tmp_path / "trained").exists()


@pytest.mark.parametrize("kind", ["xl", "sd3_without_t5"])
def test_a_model_whose_encoders_share_ids_is_trained_and_resumed_from_what_it_generated(
    prompts: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "xl":
        folder = diffusion_cases.diffusers_xl_folder(tmp_path / "model")
    else:
        folder = diffusion_cases.diffusers_sd3_folder(tmp_path / "model", has_t5=False)
    stored = {"generate__latents__prompt_embeds": str(kind == "xl").lower()}
    options = {**OPTIONS, **stored, "generate__model__model": folder}
    assert cases.command(prompts, tmp_path / "run", **options) == 0
    changes: dict[str, Any] = {
        "loop__steps": 3,
        "model": {"model": str(folder), "max_sequence_length": 20},
    }
    latents = tmp_path / "run" / "latents"
    assert training_cases.run(tmp_path, latents, **changes) == 0
    again = training_cases.write_config(
        tmp_path / "again.yaml", latents, tmp_path / "again", **changes
    )
    assert train(["--config", str(again), "--limit", "1"]) == 0
    assert train(["--config", str(again)]) == 0
    weights = training_cases.weights_digests
    assert weights(tmp_path / "again") == weights(tmp_path / "out")
