"""The whole model: its parts fit, its folder is diffusers' own, its weights stay what they are."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from sd_core.model.autoencoder import encode_images
from sd_core.model.clip_tokenizer import clip_vocabulary_tokenizer
from sd_core.model.conditioning import concatenate_conditionings
from sd_core.model.denoiser import predict
from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.latent_diffusion_saving import save_latent_diffusion
from sd_core.model.text_conditioning import (
    encode_conditioning,
    encode_conditioning_of_ids,
    encode_unconditional,
    size_time_ids,
)
from sd_core.model.text_encoder import tokenize_captions
from sd_core.model.weights import WeightsError
from tests import diffusion_cases


@pytest.fixture(scope="module")
def written_by_diffusers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffusion_cases.diffusers_folder(tmp_path_factory.mktemp("models") / "theirs")


def load(folder: Path, **options: Any) -> LatentDiffusion:
    config = LatentDiffusionConfig.model_validate({"model": str(folder), **options})
    return load_latent_diffusion(config, device="cpu")


def prediction(model: LatentDiffusion) -> torch.Tensor:
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        conditioning = encode_conditioning(model, ["a red circle", ""])
        return predict(model.denoiser, latents, torch.tensor([0, 999]), conditioning)


def weight_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.safetensors"))
    }


@pytest.mark.parametrize(
    "settings", [diffusion_cases.UNET, diffusion_cases.TRANSFORMER], ids=["unet", "transformer"]
)
def test_a_saved_folder_loads_to_the_same_model(
    tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = diffusion_cases.diffusion_config(tmp_path, settings)
    model = load_latent_diffusion(config, device="cpu")
    save_latent_diffusion(model, tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert loaded.identity == model.identity
    assert loaded.noise_schedule.config == model.noise_schedule.config
    assert prediction(model).shape == (2, 4, 16, 16)
    assert torch.equal(prediction(loaded), prediction(model))
    save_latent_diffusion(loaded, tmp_path / "again")
    assert weight_files(tmp_path / "again") == weight_files(tmp_path / "saved")
    assert capsys.readouterr().err == "", "no progress bars"


def test_a_folder_that_diffusers_wrote_keeps_its_weights_to_the_byte(
    written_by_diffusers: Path, tmp_path: Path
) -> None:
    save_latent_diffusion(load(written_by_diffusers), tmp_path / "ours")
    ours, theirs = weight_files(tmp_path / "ours"), weight_files(written_by_diffusers)
    assert sorted(theirs) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert ours == theirs


def test_half_precision_files_come_back_to_the_byte(
    written_by_diffusers: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(written_by_diffusers, tmp_path / "half")
    for path in folder.rglob("*.safetensors"):
        half = {name: tensor.half() for name, tensor in load_file(path).items()}
        save_file(half, path, metadata={"format": "pt"})
    model = load(folder)
    assert next(model.denoiser.parameters()).dtype == torch.float32
    save_latent_diffusion(model, tmp_path / "ours")
    assert weight_files(tmp_path / "ours") == weight_files(folder)


def test_a_changed_denoiser_is_written_as_diffusers_would(
    written_by_diffusers: Path, tmp_path: Path
) -> None:
    model = load(written_by_diffusers)
    denoiser: Any = model.denoiser.to(memory_format=torch.channels_last)
    with torch.no_grad():
        denoiser.conv_in.bias.add_(1)
    save_latent_diffusion(model, tmp_path / "ours")
    denoiser.to(memory_format=torch.contiguous_format).save_pretrained(tmp_path / "theirs")
    ours = weight_files(tmp_path / "ours" / "unet")
    assert ours == weight_files(tmp_path / "theirs")
    assert ours != weight_files(written_by_diffusers / "unet")
    assert torch.equal(prediction(load(tmp_path / "ours")), prediction(model))


def test_encoders_that_run_in_bf16_are_saved_in_float32(tmp_path: Path) -> None:
    plain = diffusion_cases.diffusion_config(tmp_path)
    save_latent_diffusion(load_latent_diffusion(plain, device="cpu"), tmp_path / "fp32")
    encoders = (plain.autoencoder, plain.text_encoder)
    assert all(encoders)
    halved = {
        name: section.model_copy(update={"precision": "bf16"})
        for name, section in zip(("autoencoder", "text_encoder"), encoders, strict=True)
        if section
    }
    model = load_latent_diffusion(plain.model_copy(update=halved), device="cpu")
    assert model.text_encoder.dtype == model.autoencoder.dtype == torch.bfloat16
    save_latent_diffusion(model, tmp_path / "bf16")
    assert weight_files(tmp_path / "bf16") == weight_files(tmp_path / "fp32")
    with pytest.raises(WeightsError, match="runs in bf16 and cannot be loaded again"):
        save_latent_diffusion(
            dataclasses.replace(model, sections=None, sources={}), tmp_path / "none"
        )
    assert not (tmp_path / "none").exists()


def test_diffusers_own_pipeline_opens_it(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    model = load_latent_diffusion(diffusion_cases.diffusion_config(tmp_path), device="cpu")
    save_latent_diffusion(model, tmp_path / "saved")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "saved", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a dog", num_inference_steps=2, output_type="pt").images
    assert images.shape == (1, 3, 32, 32)
    embeds, empty = pipeline.encode_prompt("a dog", "cpu", 1, True)
    expected = encode_conditioning(model, ["a dog", ""]).prompt_embeds
    torch.testing.assert_close(torch.cat([embeds, empty]), expected, atol=1e-6, rtol=0)


def test_xl_is_conditioned_as_its_own_pipeline_does(tmp_path: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    folder = diffusion_cases.diffusers_xl_folder(tmp_path / "theirs")
    model = load(folder)
    save_latent_diffusion(model, tmp_path / "ours")
    assert weight_files(tmp_path / "ours") == weight_files(folder)
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "ours", add_watermarker=False)
    embeds, empty, pooled, empty_pooled = pipeline.encode_prompt("a dog", device="cpu")
    time_ids = size_time_ids(2, height_px=32, width_px=32)
    ours = concatenate_conditionings(
        [
            encode_conditioning(model, ["a dog"], time_ids=time_ids[:1]),
            encode_unconditional(model, [""], time_ids=time_ids[:1]),
        ]
    )
    assert not ours.prompt_embeds[1].any()  # the index says force_zeros_for_empty_prompt
    torch.testing.assert_close(ours.prompt_embeds, torch.cat([embeds, empty]), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        ours.pooled_prompt_embeds, torch.cat([pooled, empty_pooled]), atol=1e-6, rtol=0
    )
    added = {"text_embeds": torch.cat([pooled, empty_pooled]), "time_ids": time_ids}
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = pipeline.unet(
            latents,
            torch.tensor([5, 700]),
            encoder_hidden_states=torch.cat([embeds, empty]),
            added_cond_kwargs=added,
        ).sample
        found = predict(model.denoiser, latents, torch.tensor([5, 700]), ours)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="give time_ids"):
        encode_conditioning(model, ["a dog"])
    first = load(folder).identity.text_encoder
    assert first == model.identity.text_encoder
    assert first.embed_dim == 80


def test_nothing_is_overwritten(written_by_diffusers: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(FileExistsError, match="is there already"):
        save_latent_diffusion(load(written_by_diffusers), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_its_identity_is_what_the_encode_step_writes(written_by_diffusers: Path) -> None:
    model = load(written_by_diffusers)
    identity = model.identity
    assert identity.autoencoder.weights_sha256 == model.autoencoder.weights_sha256
    assert identity.autoencoder.scaling_factor == 0.18215
    assert identity.text_encoder.tokenizer_sha256 == model.text_encoder.tokenizer_sha256
    assert (identity.text_encoder.token_length, identity.text_encoder.embed_dim) == (12, 32)


def damaged(folder: Path, target: Path, fault: str) -> Path:
    shutil.copytree(folder, target)
    weights = target / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    config = target / "unet" / "config.json"
    if fault == "missing key":
        del state["conv_in.bias"]
    elif fault == "unknown key":
        state["more.bias"] = torch.zeros(1)
    elif fault == "shape":
        state["conv_in.bias"] = torch.zeros(9)
    save_file(state, weights, metadata={"format": "pt"})
    if fault == "pickle":
        torch.save(state, target / "unet" / "diffusion_pytorch_model.bin")
        weights.unlink()
    elif fault.startswith("pickled"):
        part = target / fault.split()[1]
        path = next(part.glob("*.safetensors"))
        stem = "pytorch_model" if part.name == "text_encoder" else path.stem
        torch.save(load_file(path), part / f"{stem}.bin")
        path.unlink()
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "channels":
        settings = {**json.loads(config.read_text()), "in_channels": 9}
        config.write_text(json.dumps(settings))
    elif fault == "no config":
        config.unlink()
    elif fault == "foreign denoiser":
        config.write_text(json.dumps({"_class_name": "Transformer2DModel"}))
    elif fault in ("remote code", "no text"):
        index = json.loads((target / "model_index.json").read_text())
        index |= {"unet": ["my_code", "MyUNet"]} if fault == "remote code" else {}
        if fault == "no text":
            del index["text_encoder"]
        (target / "model_index.json").write_text(json.dumps(index))
    elif fault == "no index":
        (target / "model_index.json").unlink()
    elif fault == "scheduler":
        scheduler = {"_class_name": "DDIMScheduler", "prediction_type": "sample"}
        (target / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return target


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing key", r"denoiser\.model: .*1 tensors are missing, conv_in\.bias for one"),
        ("unknown key", r"denoiser\.model: .*1 tensors are unknown, more\.bias for one"),
        ("shape", r"1 tensors are of another shape, conv_in\.bias for one"),
        ("channels", r"1 tensors are of another shape, conv_in\.weight for one"),
        ("pickle", r"holds no diffusion_pytorch_model\.safetensors .*never pickles"),
        ("pickled vae", r"autoencoder\.model: .*does not load as AutoencoderKL from safetensors"),
        ("pickled text_encoder", r"text_encoder\.model: .*does not load as a CLIP text model"),
        ("truncated", r"diffusion_pytorch_model\.safetensors cannot be read"),
        ("no config", r"holds no config\.json"),
        ("foreign denoiser", r"a Transformer2DModel; a denoiser is a UNet2DConditionModel or"),
        ("remote code", r"whose unet is MyUNet; supported: UNet2DConditionModel"),
        ("no text", r"whose text_encoder is missing; supported: CLIPTextModel"),
        ("no index", r"model_index\.json: there is nothing at"),
        (
            "scheduler",
            r"scheduler_config\.json: PNDMScheduler is not supported as it stands: prediction_type",
        ),
    ],
)
def test_a_folder_of_another_kind_says_what_is_wrong(
    written_by_diffusers: Path, tmp_path: Path, fault: str, message: str
) -> None:
    folder = damaged(written_by_diffusers, tmp_path / "damaged", fault)
    with pytest.raises(WeightsError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cross_attention_dim": 48}, "attends to text of width 48, and the text encoder.* 32"),
        ({"in_channels": 6}, "takes 6 channels, and the autoencoder's latents have 4"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 64,
            },
            "wants XL's pooled text and time ids, and there is no second",
        ),
    ],
)
def test_parts_of_different_models_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = diffusion_cases.diffusion_config(tmp_path, {**diffusion_cases.UNET, **change})
    with pytest.raises(WeightsError, match=message):
        load_latent_diffusion(config, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "set model, or also the section.s. autoencoder, text_encoder, denoiser"),
        ({"model": "/m", "denoiser": {"settings": {}}}, "leave out denoiser"),
        ({"model": "/m", "unet": "x"}, "Extra inputs"),
    ],
)
def test_a_model_is_named_one_way(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LatentDiffusionConfig.model_validate(options)


def test_another_noise_schedule_may_be_named_with_a_whole_model(
    written_by_diffusers: Path,
) -> None:
    assert load(written_by_diffusers).noise_schedule.config.prediction_type == "epsilon"
    schedule = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    model = load(written_by_diffusers, noise_schedule=schedule)
    assert model.noise_schedule.alphas_cumprod[-1] == 0


def test_a_denoiser_learns_from_what_the_encoders_give(written_by_diffusers: Path) -> None:
    model = load(written_by_diffusers)
    latents = encode_images(model.autoencoder, torch.zeros(2, 3, 32, 32), form="mean")
    conditioning = encode_conditioning(model, ["a dog", ""])
    predict(model.denoiser, latents, torch.tensor([1, 2]), conditioning).mean().backward()
    assert all(parameter.grad is not None for parameter in model.denoiser.parameters())
    encoders = (model.autoencoder.module, model.text_encoder.module)
    assert not any(p.requires_grad for module in encoders for p in module.parameters())


def test_cached_token_ids_condition_like_their_captions(written_by_diffusers: Path) -> None:
    model = load(written_by_diffusers)
    captions = ["a dog", ""]
    ids = tokenize_captions(model.text_encoder, captions)
    by_ids = encode_conditioning_of_ids(model, ids).prompt_embeds
    assert torch.equal(by_ids, encode_conditioning(model, captions).prompt_embeds)


def test_a_pinned_hub_model_is_read_part_by_part(
    written_by_diffusers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(written_by_diffusers, tmp_path / "models--org--tiny" / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config = LatentDiffusionConfig(model=f"hub:org/tiny@{commit}")
    model = load_latent_diffusion(config, device="cpu")
    assert model.identity == load(written_by_diffusers).identity
    with pytest.raises(WeightsError, match="no revision is pinned"):
        load_latent_diffusion(LatentDiffusionConfig(model="hub:org/tiny"), device="cpu")
    with pytest.raises(WeightsError, match="revision v2 was not fetched before"):
        load_latent_diffusion(LatentDiffusionConfig(model="hub:org/tiny@v2"), device="cpu")


def test_stable_diffusions_tokenizer_needs_no_download() -> None:
    tokenizer = clip_vocabulary_tokenizer(pad_token_id=0)
    ids = tokenizer(["a dog"], padding="max_length", max_length=77)["input_ids"][0]
    assert ids[:5] == [49406, 320, 1929, 49407, 0]
    assert clip_vocabulary_tokenizer(pad_token_id=49407).pad_token_id == 49407
