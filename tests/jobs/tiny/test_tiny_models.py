"""The trained tiny models keep what their README promises, on held-out pictures."""

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer

from jobs.tiny.drawing import FIRST_HELD_OUT_SEED, draw, plan_pictures
from jobs.tiny.loading import TINY, load_aesthetic_head, load_tiny_autoencoder, load_tiny_clip
from jobs.tiny.measure import Thresholds, Verdict, judge, score
from jobs.tiny.measure_denoiser import load_tiny, sample_images
from jobs.tiny.train_autoencoder import draw_images, psnr, to_input
from jobs.tiny.word_pieces import write_tokenizer
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.clip import ClipConfig
from sd_core.model.denoiser import DenoiserConfig
from sd_core.model.latent_diffusion import LatentDiffusionConfig, load_latent_diffusion
from sd_core.model.text_encoder import TextEncoderConfig


def recommended() -> Thresholds:
    """The thresholds as the README states them."""
    text = (TINY / "README.md").read_text()
    found = {
        name: re.search(rf"`{name}`: ([0-9.]+)", text)
        for name in ("aesthetic_v1", "clip_similarity")
    }
    return Thresholds(**{name: float(hit.group(1)) for name, hit in found.items() if hit})


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    specs = plan_pictures(FIRST_HELD_OUT_SEED + 50_000, 240, flawed_share=0.5)
    return judge(score(specs, load_tiny_clip(), load_aesthetic_head()), recommended())


def test_flawed_pictures_are_caught(verdict: Verdict) -> None:
    assert verdict.caught >= 0.97, verdict


def test_good_pictures_are_kept(verdict: Verdict) -> None:
    assert verdict.kept >= 0.95, verdict


def test_the_autoencoder_restores_pictures_to_28_db() -> None:
    images = draw_images(FIRST_HELD_OUT_SEED + 60_000, 32)
    assert psnr(load_tiny_autoencoder(), images) >= 28


def test_scaled_latents_have_unit_deviation_and_a_quarter_of_the_side() -> None:
    autoencoder: Any = load_tiny_autoencoder()
    images = draw_images(FIRST_HELD_OUT_SEED + 61_000, 64)
    with torch.inference_mode():
        latents = autoencoder.encode(to_input(images)).latent_dist.mode()
    assert latents.shape == (64, 4, 16, 16)
    deviation = float(latents.std()) * autoencoder.config["scaling_factor"]
    assert deviation == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize(
    "caption",
    [
        draw(FIRST_HELD_OUT_SEED).caption,
        "Ein grüner Stern, ganz klein!  ☆",
        "",
        "a small red star " * 12,
    ],
)
def test_both_tokenizers_give_the_same_ids(caption: str) -> None:
    of_open_clip = load_tiny_clip().tokenizer([caption])[0].tolist()
    tokenizer = CLIPTokenizer.from_pretrained(TINY / "tokenizer")
    of_transformers = tokenizer(
        caption, padding="max_length", truncation=True, max_length=tokenizer.model_max_length
    ).input_ids
    assert of_open_clip == of_transformers
    assert len(of_open_clip) == 32
    assert of_open_clip.count(max(of_open_clip)) == 1
    assert max(of_open_clip) == tokenizer.eos_token_id


def test_the_clip_folder_holds_the_same_tokenizer() -> None:
    for path in (TINY / "tokenizer").iterdir():
        assert path.read_text() == (TINY / "clip" / path.name).read_text()


def test_the_tokenizer_recipe_writes_files_of_the_same_layout(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    written, shipped = (
        json.loads((folder / "vocab.json").read_text()) for folder in (tmp_path, TINY / "tokenizer")
    )
    assert sorted(written.values()) == sorted(shipped.values()) == list(range(1024))
    for piece in ("<|pad|>", "a", "a</w>", "<|startoftext|>", "<|endoftext|>"):
        assert written[piece] == shipped[piece]
    assert {"circle</w>", "purple</w>", "background</w>"} <= written.keys() & shipped.keys()


def test_the_preprocessing_of_open_clip_equals_the_one_trained_with() -> None:
    config = json.loads((TINY / "clip" / "open_clip_config.json").read_text())
    assert config["preprocess_cfg"]["mean"] == [0.5, 0.5, 0.5]
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{TINY / 'clip'}")
    picture = draw(FIRST_HELD_OUT_SEED)
    expected = to_input(picture.image[None])[0]
    torch.testing.assert_close(preprocess(Image.fromarray(picture.image)), expected)


def test_the_folder_is_small_and_its_weights_are_safetensors() -> None:
    files = [path for path in TINY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40_000_000
    assert {path.suffix for path in files} <= {".json", ".txt", ".md", ".safetensors"}


def test_the_tiny_model_draws_what_it_is_asked_for() -> None:
    generated = sample_images(
        load_tiny(TINY / "model"),
        range(FIRST_HELD_OUT_SEED + 300_000, FIRST_HELD_OUT_SEED + 300_024),
        sampler="dpmpp_2m",
        num_inference_steps=15,
        guidance_scale=2.0,
        batch_size=24,
    )
    shares = generated.shares()
    # 24 pictures scatter; python -m jobs.tiny.measure_denoiser asks more of 200.
    assert shares["color"] >= 0.87
    assert shares["background"] >= 0.87
    assert shares["position"] >= 0.8
    assert shares["size"] >= 0.75
    assert shares["shape"] >= 0.7


def test_the_tiny_model_shares_its_encoders_with_the_demos_caches() -> None:
    sections = LatentDiffusionConfig(
        autoencoder=AutoencoderConfig(model="preset:tiny/autoencoder"),
        text_encoder=TextEncoderConfig(clip=ClipConfig(name="preset:tiny/clip")),
        denoiser=DenoiserConfig(model="preset:tiny/model/unet"),
    )
    curated = load_latent_diffusion(sections, device="cpu")
    assert load_tiny(TINY / "model").identity == curated.identity
