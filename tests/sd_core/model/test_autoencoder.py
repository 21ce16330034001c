"""Autoencoders: kinds, folders, raw latents."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from sd_core.model.autoencoder import (
    Autoencoder,
    decode_latents,
    default_form,
    encode_images,
    load_autoencoder,
)
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.weights import WeightsError, digest_folder
from tests import model_cases


def load(folder: Path, **options: object) -> Autoencoder:
    config = AutoencoderConfig.model_validate({"model": str(folder), **options})
    return load_autoencoder(config, device="cpu")


def images(count: int = 2, *, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("kind", "form", "channels"), [("kl", "moments", 8), ("tiny", "mean", 4), ("vq", "mean", 4)]
)
def test_each_kind_encodes_and_decodes(tmp_path: Path, kind: str, form: str, channels: int) -> None:
    autoencoder = load(model_cases.autoencoder_folder(tmp_path / kind, kind=kind))
    assert (autoencoder.kind, autoencoder.downsampling) == (kind, 2)
    assert default_form(autoencoder) == form
    raw = encode_images(autoencoder, images(), form=default_form(autoencoder))
    assert raw.shape == (2, channels, 16, 16)
    mean = encode_images(autoencoder, images(), form="mean")
    decoded = decode_latents(autoencoder, mean)
    assert decoded.shape == (2, 3, 32, 32)
    assert decoded.abs().max() <= 1


def test_latents_are_raw_whatever_the_scaling_factor(tmp_path: Path) -> None:
    one = load(model_cases.autoencoder_folder(tmp_path / "a", scaling_factor=1.0))
    other = load(model_cases.autoencoder_folder(tmp_path / "b", scaling_factor=0.13025))
    assert other.scaling_factor == 0.13025
    assert torch.equal(
        encode_images(one, images(), form="moments"), encode_images(other, images(), form="moments")
    )


def test_the_scale_says_what_the_folder_says(tmp_path: Path) -> None:
    kl = load(model_cases.autoencoder_folder(tmp_path / "kl"))
    assert (kl.scaling_factor, kl.shift_factor) == (0.18215, 0.0)
    tiny = load(model_cases.autoencoder_folder(tmp_path / "tiny", kind="tiny"))
    assert (tiny.scaling_factor, tiny.shift_factor) == (1.0, 0.0)
    shifted = load(model_cases.autoencoder_folder(tmp_path / "s", shift_factor=0.1159))
    assert shifted.shift_factor == 0.1159


def test_an_image_encodes_the_same_whatever_batch_it_is_in(tmp_path: Path) -> None:
    autoencoder = load(model_cases.autoencoder_folder(tmp_path / "kl"))
    whole = encode_images(autoencoder, images(5), form="moments")
    for index in range(5):
        alone = encode_images(autoencoder, images(5)[index : index + 1], form="moments")
        assert torch.equal(alone[0], whole[index])


def test_moments_hold_diffusers_mean_and_log_variance(tmp_path: Path) -> None:
    autoencoder = load(model_cases.autoencoder_folder(tmp_path / "kl"))
    moments = encode_images(autoencoder, images(1), form="moments")
    with torch.inference_mode():
        posterior = autoencoder.module.encode(images(1)).latent_dist
    torch.testing.assert_close(moments, torch.cat([posterior.mean, posterior.logvar], dim=1))
    assert torch.equal(encode_images(autoencoder, images(1), form="mean"), moments[:, :4])


def test_moments_of_a_model_without_them_are_refused(tmp_path: Path) -> None:
    tiny = load(model_cases.autoencoder_folder(tmp_path / "tiny", kind="tiny"))
    with pytest.raises(ValueError, match="a tiny autoencoder has no moments; use form 'mean'"):
        encode_images(tiny, images(), form="moments")


def test_sides_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    autoencoder = load(model_cases.autoencoder_folder(tmp_path / "kl"))
    with pytest.raises(ValueError, match="33x33 images: both sides must be multiples of 2"):
        encode_images(autoencoder, images(size=33), form="mean")


def test_bf16_latents_are_close_and_the_hash_is_the_same(tmp_path: Path) -> None:
    folder = model_cases.autoencoder_folder(tmp_path / "kl")
    full, low = load(folder), load(folder, precision="bf16")
    assert low.weights_sha256 == full.weights_sha256
    difference = encode_images(full, images(), form="mean") - encode_images(
        low, images(), form="mean"
    )
    assert 0 < difference.abs().max() < 0.1


def test_fp16_is_not_offered() -> None:
    with pytest.raises(ValidationError, match="'auto', 'fp32' or 'bf16'"):
        AutoencoderConfig.model_validate({"model": "x", "precision": "fp16"})


def test_taesd_loads_from_its_own_two_files(tmp_path: Path) -> None:
    random = load_autoencoder(
        AutoencoderConfig(model="taesd", pretrained=False, seed=5), device="cpu"
    )
    state = random.module.state_dict()
    encoder = {
        name.removeprefix("encoder.layers."): tensor
        for name, tensor in state.items()
        if name.startswith("encoder.")
    }
    decoder = {}
    for name, tensor in state.items():
        if name.startswith("decoder.layers."):
            index, _, rest = name.removeprefix("decoder.layers.").partition(".")
            decoder[f"{int(index) + 1}.{rest}"] = tensor
    save_file(encoder, tmp_path / "taesd_encoder.safetensors")
    save_file(decoder, tmp_path / "taesd_decoder.safetensors")
    loaded = load(tmp_path)
    assert loaded.weights_sha256 == random.weights_sha256
    assert (loaded.kind, loaded.downsampling, loaded.latent_channels) == ("tiny", 8, 4)
    del decoder["1.weight"]
    save_file(decoder, tmp_path / "taesd_decoder.safetensors")
    with pytest.raises(WeightsError, match="does not fit TAESD"):
        load(tmp_path)


def test_random_weights_come_from_the_seed() -> None:
    digests = [
        load_autoencoder(
            AutoencoderConfig(model="taesd", pretrained=False, seed=seed), device="cpu"
        ).weights_sha256
        for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_stable_diffusions_autoencoder_has_its_size() -> None:
    import diffusers

    from sd_core.model.autoencoder_config import AUTOENCODER_ARCHITECTURES

    with torch.device("meta"):
        module = diffusers.AutoencoderKL.from_config(AUTOENCODER_ARCHITECTURES["sd-v1"])
    assert sum(parameter.numel() for parameter in module.parameters()) == 83_653_863


def test_a_folder_whose_weights_do_not_fit_is_refused(tmp_path: Path) -> None:
    folder = model_cases.autoencoder_folder(tmp_path / "kl")
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("quant_conv.weight")
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"does not fit its config\.json: 1 keys .* quant_conv"):
        load(folder)


def test_wrong_folders_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no config\.json, so it is no diffusers folder"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(WeightsError, match="is a UNet2DConditionModel; expected AutoencoderKL or"):
        load(tmp_path)
    folder = model_cases.autoencoder_folder(tmp_path / "kl")
    with pytest.raises(WeightsError, match="is a AutoencoderKL; expected VQModel"):
        load(folder, kind="vq")
    with pytest.raises(ValidationError, match="an architecture without weights"):
        AutoencoderConfig(model="sd-v1")


def test_the_folders_hash_is_checked(tmp_path: Path) -> None:
    folder = model_cases.autoencoder_folder(tmp_path / "kl")
    assert load(folder, sha256=digest_folder(folder)).kind == "kl"
    with pytest.raises(WeightsError, match="has sha256"):
        load(folder, sha256="0" * 64)


def test_latents_scaled_per_channel_are_refused(tmp_path: Path) -> None:
    folder = model_cases.autoencoder_folder(tmp_path / "kl", latents_mean=(0.0,) * 4)
    with pytest.raises(WeightsError, match=r"config\.json: latents_mean is .*; allowed: null"):
        load(folder)
