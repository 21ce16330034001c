"""Stable Diffusion 3: three text encoders, MMDiT and a rectified flow are diffusers' own."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.latent_diffusion_check import check_latent_diffusion
from sd_core.model.latent_diffusion_saving import save_latent_diffusion
from sd_core.model.text_conditioning import (
    encode_conditioning,
    encode_conditioning_of_ids,
    encode_unconditional,
)
from sd_core.model.text_encoder import tokenize_captions
from sd_core.model.weights import WeightsError
from sd_core.sampling.noise import initial_noise, row_generators
from sd_core.sampling.samplers import sampler_of_folder
from sd_core.sampling.text_to_image import generate_images
from tests import diffusion_cases

CAPTIONS = ["a red circle on a far longer caption than clip reads", "", "two green stars"]
SEEDS = [11, 12, 13]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """With and without T5."""
    root = tmp_path_factory.mktemp("models")
    return {
        has_t5: diffusion_cases.diffusers_sd3_folder(root / str(has_t5), has_t5=has_t5)
        for has_t5 in (True, False)
    }


def load(folder: Path, **options: Any) -> LatentDiffusion:
    config = LatentDiffusionConfig.model_validate({"model": str(folder), **options})
    return load_latent_diffusion(config, device="cpu")


def opened(folder: Path, *, has_t5: bool) -> Any:
    family: Any = diffusers.StableDiffusion3Pipeline
    left_out = {} if has_t5 else {"text_encoder_3": None, "tokenizer_3": None}
    return family.from_pretrained(folder, **left_out)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "model_index.json"
    }


@pytest.mark.parametrize("has_t5", [True, False], ids=["t5", "no_t5"])
def test_images_are_those_of_diffusers_own_pipeline(
    folders: dict[bool, Path], has_t5: bool
) -> None:
    model = load(folders[has_t5], max_sequence_length=20)
    generators = row_generators(SEEDS)
    ours = generate_images(
        model,
        conditioning=encode_conditioning(model, CAPTIONS),
        unconditional=encode_unconditional(model, [""]),
        noise=initial_noise(generators, shape=model.latents_shape),
        sampler=sampler_of_folder(model.noise_schedule),
        num_inference_steps=6,
        guidance_scale=5.0,
    ).numpy()
    pipeline = opened(folders[has_t5], has_t5=has_t5)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        CAPTIONS,
        generator=row_generators(SEEDS),
        num_inference_steps=6,
        guidance_scale=5.0,
        max_sequence_length=20,
        output_type="pil",
    )
    theirs = np.stack([np.asarray(picture) for picture in made.images])
    assert ours.shape == theirs.shape == (3, 32, 32, 3)
    assert ours.std() > 5, "an empty picture compares nothing"
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize("has_t5", [True, False], ids=["t5", "no_t5"])
def test_a_folder_comes_back_to_the_byte(
    folders: dict[bool, Path], tmp_path: Path, has_t5: bool
) -> None:
    model = load(folders[has_t5])
    save_latent_diffusion(model, tmp_path / "ours")
    assert files(tmp_path / "ours") == files(folders[has_t5])
    ours, theirs = (
        json.loads((folder / "model_index.json").read_text())
        for folder in (tmp_path / "ours", folders[has_t5])
    )
    optional = {"image_encoder", "feature_extractor", "_name_or_path"}
    assert ours == {name: value for name, value in theirs.items() if name not in optional}
    opened(tmp_path / "ours", has_t5=has_t5)
    assert load(tmp_path / "ours").identity == model.identity


def test_a_changed_t5_alone_is_written_anew(folders: dict[bool, Path], tmp_path: Path) -> None:
    model = load(folders[True])
    with torch.no_grad():
        next(model.text_encoders["text_encoder_3"].module.parameters()).add_(1)
    save_latent_diffusion(model, tmp_path / "changed")
    changed, before = files(tmp_path / "changed"), files(folders[True])
    differ = {name for name in before if before[name] != changed[name]}
    assert differ == {"text_encoder_3/model.safetensors"}


def test_each_caption_is_cut_at_each_encoders_own_limit(folders: dict[bool, Path]) -> None:
    model = load(folders[True], max_sequence_length=40)
    lengths = {part: one.token_length for part, one in model.text_encoders.items()}
    assert lengths == {"text_encoder": 12, "text_encoder_2": 12, "text_encoder_3": 40}
    clip, t5 = model.text_encoder, model.text_encoders["text_encoder_3"]
    two = ["a red circle", "a red circle on white"]
    assert torch.equal(*tokenize_captions(clip, two))
    assert not torch.equal(*tokenize_captions(t5, two))
    encoded = encode_conditioning(model, two)
    assert encoded.prompt_embeds.shape == (2, 12 + 40, 96)
    assert not encoded.prompt_embeds[:, :12, 80:].any()  # CLIP's 32 and 48 are padded to T5's
    assert torch.equal(*encoded.prompt_embeds[:, :12])
    assert encoded.time_ids is None


def test_ids_of_a_cache_are_enough_without_t5(folders: dict[bool, Path]) -> None:
    bare, whole = load(folders[False]), load(folders[True])
    ids = tokenize_captions(bare.text_encoder, CAPTIONS)
    expected = encode_conditioning(bare, CAPTIONS)
    found = encode_conditioning_of_ids(bare, ids)
    assert torch.equal(found.prompt_embeds, expected.prompt_embeds)
    with pytest.raises(ValueError, match="token ids of text_encoder_3 do not follow"):
        encode_conditioning_of_ids(whole, ids)
    assert whole.identity == bare.identity  # the cache holds what CLIP reads, in either


def test_it_may_be_named_part_by_part(folders: dict[bool, Path]) -> None:
    whole, folder = load(folders[True], max_sequence_length=20), str(folders[True])
    clip = {"model": folder, "hidden_states": "penultimate"}
    third = {"model": folder, "part": "text_encoder_3", "max_sequence_length": 20}
    parts = LatentDiffusionConfig.model_validate(
        {
            "autoencoder": {"model": f"{folder}/vae"},
            "text_encoder": clip,
            "text_encoder_2": {**clip, "part": "text_encoder_2"},
            "text_encoder_3": third,
            "denoiser": {"model": f"{folder}/transformer"},
            "noise_schedule": {"prediction_type": "flow", "flow_shift": 3.0},
        }
    )
    model = load_latent_diffusion(parts, device="cpu")
    assert model.identity == whole.identity
    assert model.noise_schedule.config == whole.noise_schedule.config
    ours, theirs = (encode_conditioning(one, CAPTIONS) for one in (model, whole))
    assert torch.equal(ours.prompt_embeds, theirs.prompt_embeds)


def changed_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def damage(folder: Path, fault: str) -> None:
    if fault == "no tokenizer":
        shutil.rmtree(folder / "tokenizer_3")
    elif fault == "no tokenizer in the index":
        changed_json(folder / "model_index.json", tokenizer_3=[None, None])
    elif fault == "no vocabulary":
        (folder / "tokenizer_3" / "tokenizer.json").unlink()
    elif fault == "another width":
        diffusion_cases.t5_encoder(width=64).save_pretrained(folder / "text_encoder_3")
    elif fault == "another vocabulary":
        changed_json(folder / "text_encoder_3" / "config.json", vocab_size=20)
    elif fault == "no second CLIP":
        changed_json(folder / "model_index.json", text_encoder_2=[None, None])
    elif fault == "a plain CLIP":
        changed_json(folder / "model_index.json", text_encoder=["transformers", "CLIPTextModel"])
    elif fault == "pooled":
        changed_json(folder / "transformer" / "config.json", pooled_projection_dim=40)
    elif fault == "a pickle":
        (folder / "text_encoder_3" / "model.safetensors").rename(
            folder / "text_encoder_3" / "pytorch_model.bin"
        )
    elif fault == "dynamic shift":
        changed_json(folder / "scheduler" / "scheduler_config.json", use_dynamic_shifting=True)
    elif fault == "a tensor":
        changed_json(folder / "transformer" / "config.json", num_layers=3)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no tokenizer", r"text_encoder_3\.model: .*tokenizer_3: there is nothing at"),
        ("no tokenizer in the index", "has a text_encoder_3 and no tokenizer_3"),
        ("no vocabulary", r"tokenizer_3 holds no vocabulary .*allowed: tokenizer\.json"),
        ("another width", "text_encoder_3 gives text of width 64; allowed: 96"),
        ("another vocabulary", "highest id is 29 and the text encoder's vocab_size is 20"),
        ("no second CLIP", "text encoders are text_encoder clip, text_encoder_3 t5; allowed: "),
        ("a plain CLIP", "text_encoder is CLIPTextModel; supported: CLIPTextModelWithProjection"),
        ("pooled", "give pooled text of width 48; allowed: 40"),
        ("a pickle", "holds no model.safetensors .*never pickles"),
        ("dynamic shift", "use_dynamic_shifting is True; allowed: False"),
        ("a tensor", "tensors are missing, transformer_blocks"),
    ],
)
def test_wrong_or_missing_parts_are_named_before_anything_is_loaded(
    folders: dict[bool, Path], tmp_path: Path, fault: str, message: str
) -> None:
    folder = shutil.copytree(folders[True], tmp_path / "damaged")
    damage(folder, fault)
    with pytest.raises(WeightsError, match=message):
        check_latent_diffusion(LatentDiffusionConfig(model=str(folder)), tasks=["text_to_image"])
