"""What a model folder or a LoRA file says is honoured or ends the job with exit code 2, by name."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from jobs import generate
from sd_core.sampling.noise import row_generators
from tests import diffusion_cases
from tests.contracts.cases import ROOT
from tests.run_cases import committed_files

PROMPTS = ["a red circle", "two green stars"]
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return diffusion_cases.diffusers_folder(tmp_path / "model")


def run(tmp_path: Path, model: Path, *settings: str) -> int:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    options = {
        "prompts.path": tmp_path / "prompts.txt",
        "output": tmp_path / "run",
        "generate.model.model": model,
        "generate.defaults.sampler": "null",
        "generate.defaults.num_inference_steps": 3,
        "generate.latents": "null",
        "score": "null",
        "engine.runner": "local",
    }
    told = [f"{name}={value}" for name, value in options.items()] + list(settings)
    arguments = ["--config", str(ROOT / "configs/generate/tiny.yaml")]
    return generate.main([*arguments, *(part for one in told for part in ("--set", one))])


def made(tmp_path: Path) -> dict[str, tuple[npt.NDArray[np.int16], dict[str, Any]]]:
    """Pixels and metadata by prompt."""
    output = tmp_path / "run"
    found: dict[str, tuple[npt.NDArray[np.int16], dict[str, Any]]] = {}
    rows = [
        row
        for path in committed_files(output, "metadata")
        for row in pq.read_table(path).to_pylist()
    ]
    files: dict[str, bytes] = {}
    for path in committed_files(output, "images"):
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                if member.name.endswith(".png") and stream is not None:
                    files[member.name.removesuffix(".png")] = stream.read()
    for row in rows:
        image = Image.open(io.BytesIO(files[row["image_key"]])).convert("RGB")
        found[row["prompt"]] = np.asarray(image, np.int16), row
    return found


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_trailing_turbo_folder_makes_its_own_pipelines_pictures(
    tmp_path: Path, folder: Path
) -> None:
    scheduler: Any = diffusers.EulerAncestralDiscreteScheduler
    scheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    change(folder / "model_index.json", scheduler=["diffusers", scheduler.__name__])
    assert run(tmp_path, folder, "generate.defaults.guidance_scale=0.0") == 0
    family: Any = diffusers.StableDiffusionPipeline
    pipeline = family.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pictures = made(tmp_path)
    assert set(pictures) == set(PROMPTS)
    for prompt, (pixels, row) in pictures.items():
        assert (row["sampler"], row["scheduler"]) == ("euler_a", scheduler.__name__)
        theirs = pipeline(
            prompt,
            generator=row_generators([row["noise_seed"]]),
            num_inference_steps=3,
            guidance_scale=0.0,
        ).images[0]
        assert pixels.std() > 5
        assert np.abs(pixels - np.asarray(theirs, np.int16)).max() <= 1


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("scheduler/scheduler_config.json", {"sigma_data": 0.5}, "sigma_data is 0.5"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "trained_betas is [0.1]"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type is 'timestep'"),
        ("unet/config.json", {"num_class_embeds": 10}, "num_class_embeds is 10"),
        ("unet/config.json", {"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type is"),
        ("vae/config.json", {"latents_mean": [0.0] * 4}, "latents_mean is"),
        ("text_encoder/config.json", {"eos_token_id": 7}, "eos_token_id is 7"),
        ("text_encoder/config.json", {"vocab_size": 600}, "vocab_size is 600"),
        ("tokenizer/tokenizer_config.json", {"padding_side": "left"}, "padding_side is 'left'"),
        ("tokenizer/tokenizer_config.json", {"pad_token": "<new>"}, "has 515 tokens"),
        ("model_index.json", {"controlnet": ["diffusers", "ControlNetModel"]}, "controlnet is"),
        ("model_index.json", {"requires_aesthetics_score": True}, "requires_aesthetics_score is"),
    ],
)
def test_what_is_not_honoured_ends_the_job_before_it_begins(
    tmp_path: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    changes: dict[str, Any],
    told: str,
) -> None:
    change(folder / file, **changes)
    assert run(tmp_path, folder) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run/images").exists()


def test_a_tokenizer_without_its_vocabulary_ends_the_job(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "tokenizer/tokenizer.json").unlink()
    assert run(tmp_path, folder) == 2
    assert "holds no vocabulary" in capsys.readouterr().err


def test_a_scheduler_of_no_sampler_asks_for_a_name(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder / "model_index.json", scheduler=["diffusers", "TCDScheduler"])
    assert run(tmp_path, folder) == 2
    told = capsys.readouterr().err
    assert "generate.defaults.sampler: not set" in told
    assert "'TCDScheduler'" in told
    assert run(tmp_path, folder, "generate.defaults.sampler=ddim") == 0


def test_a_safety_checker_that_is_not_run_is_said_once(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    change(folder / "model_index.json", safety_checker=checker)
    assert run(tmp_path, folder) == 0
    assert capsys.readouterr().out.count("safety_checker (StableDiffusionSafetyChecker)") == 1


def lora(tmp_path: Path, **more: torch.Tensor) -> Path:
    shape = load_file(tmp_path / "model/unet/diffusion_pytorch_model.safetensors")[
        f"{LAYER}.weight"
    ].shape
    down, up = torch.full((2, shape[1]), 0.5), torch.full((shape[0], 2), 0.5)
    pair = {f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up}
    save_file({**pair, **more}, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("unet.mid.nothing.lora_A.weight", "lacks the up half"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", "lacks the down half"),
        ("lora_unet_conv_in.dora_scale", "is of DoRA in LyCORIS's form"),
        ("lora_unet_conv_in.hada_w1_a", "is of LoHa"),
        ("unet.conv_in.lora_C.weight", "is no part of a LoRA"),
    ],
)
def test_a_lora_that_would_be_applied_in_part_ends_the_job(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], key: str, told: str
) -> None:
    path = lora(tmp_path, **{key: torch.ones(2, 2)})
    assert run(tmp_path, folder, f'generate.loras=[{{"model": "{path}"}}]') == 2
    error = capsys.readouterr().err
    assert told in error
    assert key in error


def test_a_whole_lora_changes_the_pictures(tmp_path: Path, folder: Path) -> None:
    assert run(tmp_path, folder) == 0
    plain = made(tmp_path)
    convolution = {
        "lora_unet_conv_in.lora_down.weight": torch.full((2, 4, 3, 3), 0.3),
        "lora_unet_conv_in.lora_up.weight": torch.full((8, 2, 1, 1), 0.3),
    }
    path = lora(tmp_path, **convolution)
    (tmp_path / "run").rename(tmp_path / "plain")
    assert run(tmp_path, folder, f'generate.loras=[{{"model": "{path}", "scale": 4.0}}]') == 0
    for prompt, (pixels, _) in made(tmp_path).items():
        assert not np.array_equal(pixels, plain[prompt][0])
