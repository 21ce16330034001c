"""Single-file checkpoints in the original layout: read whole, told apart, refused when foreign."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sd_core.model.autoencoder_config import AUTOENCODER_ARCHITECTURES
from sd_core.model.denoiser_loading import DENOISER_ARCHITECTURES, build_module
from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.latent_diffusion_saving import save_latent_diffusion
from sd_core.model.single_file_names import autoencoder_source, denoiser_source, open_clip_source
from sd_core.model.weights import WeightsError
from tests import diffusion_cases


def load(path: Path, **options: Any) -> LatentDiffusion:
    config = LatentDiffusionConfig.model_validate({"model": str(path), **options})
    return load_latent_diffusion(config, device="cpu")


def original_state(folder: Path) -> dict[str, Tensor]:
    """The tensors of a diffusers folder under the original code's names.

    Written out by hand for this one tiny model, so that it shares nothing with the code it tests.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in load_file(folder / "unet/diffusion_pytorch_model.safetensors").items():
        for theirs, ours in UNET_NAMES:
            if name.startswith(theirs):
                state["model.diffusion_model." + inner(name.replace(theirs, ours, 1))] = tensor
    for name, tensor in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        changed = name
        for theirs, ours in VAE_NAMES:
            changed = changed.replace(theirs, ours)
        is_attention = "attn_1" in changed and changed.endswith("weight") and "norm" not in changed
        state["first_stage_model." + changed] = tensor[..., None, None] if is_attention else tensor
    for name, tensor in load_file(folder / "text_encoder/model.safetensors").items():
        bare = name.removeprefix("text_model.")
        state[f"cond_stage_model.transformer.text_model.{bare}"] = tensor
    return state


UNET_NAMES = [
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("down_blocks.0.resnets.0", "input_blocks.1.0"),
    ("down_blocks.0.attentions.0", "input_blocks.1.1"),
    ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
    ("down_blocks.1.resnets.0", "input_blocks.3.0"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
    ("up_blocks.0.resnets.0", "output_blocks.0.0"),
    ("up_blocks.0.resnets.1", "output_blocks.1.0"),
    ("up_blocks.0.upsamplers.0.conv", "output_blocks.1.1.conv"),
    ("up_blocks.1.resnets.0", "output_blocks.2.0"),
    ("up_blocks.1.attentions.0", "output_blocks.2.1"),
    ("up_blocks.1.resnets.1", "output_blocks.3.0"),
    ("up_blocks.1.attentions.1", "output_blocks.3.1"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
]
VAE_NAMES = [
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
    ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
    ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
    ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
    ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
    ("encoder.down_blocks.0.resnets", "encoder.down.0.block"),
    ("encoder.down_blocks.1.resnets", "encoder.down.1.block"),
    ("encoder.down_blocks.0.downsamplers.0", "encoder.down.0.downsample"),
    ("decoder.up_blocks.0.resnets", "decoder.up.1.block"),
    ("decoder.up_blocks.1.resnets", "decoder.up.0.block"),
    ("decoder.up_blocks.0.upsamplers.0", "decoder.up.1.upsample"),
]


def inner(name: str) -> str:
    """Of a resnet: norm and convolution names; attention's are the same."""
    for theirs, ours in [
        (".norm1.", ".in_layers.0."),
        (".conv1.", ".in_layers.2."),
        (".norm2.", ".out_layers.0."),
        (".conv2.", ".out_layers.3."),
        (".time_emb_proj.", ".emb_layers.1."),
        (".conv_shortcut.", ".skip_connection."),
    ]:
        if "transformer_blocks" not in name:
            name = name.replace(theirs, ours)
    return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffusion_cases.diffusers_folder(tmp_path_factory.mktemp("models") / "theirs")


@pytest.fixture(scope="module")
def checkpoint(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "model.safetensors"
    state = original_state(folder)
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(12)
    state["model_ema.decay"] = torch.zeros(())
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def test_a_single_file_is_the_folder_that_it_was_made_of(
    checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    model, expected = load(checkpoint, layout=str(folder)), load(folder)
    assert model.identity == expected.identity
    assert model.noise_schedule.config == expected.noise_schedule.config
    state = expected.denoiser.state_dict()
    found = model.denoiser.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    save_latent_diffusion(model, tmp_path / "saved")
    assert load(tmp_path / "saved").identity == expected.identity


def test_a_file_of_another_size_is_not_taken_for_stable_diffusion(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match=r"of another architecture: .* missing, "):
        load(checkpoint)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"denoiser\.model: .*1 tensors are missing, .*\.out\.0\.bias for one"),
        ("left over", r"denoiser\.model: .*1 tensors are left over, .*control\.bias for one"),
        ("shape", r"input_blocks\.0\.0\.weight is \(8, 9, 3, 3\), .* \(8, 4, 3, 3\)"),
        ("no text", r"no checkpoint of Stable Diffusion v1, v2 or XL"),
        ("truncated", r"cannot be read as safetensors"),
    ],
)
def test_a_foreign_checkpoint_says_what_is_wrong(
    checkpoint: Path, folder: Path, tmp_path: Path, fault: str, message: str
) -> None:
    state = load_file(checkpoint)
    prefix = "model.diffusion_model."
    if fault == "missing":
        del state[f"{prefix}out.0.bias"]
    elif fault == "left over":
        state[f"{prefix}control.bias"] = torch.zeros(1)
    elif fault == "shape":
        state[f"{prefix}input_blocks.0.0.weight"] = torch.zeros(8, 9, 3, 3)
    elif fault == "no text":
        state = {name: t for name, t in state.items() if name.startswith(prefix)}
    path = tmp_path / "foreign.safetensors"
    save_file(state, path)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match=message):
        load(path, layout=str(folder))


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.pt"])
def test_pickles_are_refused_unread(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(WeightsError, match="is a pickle, which may run code"):
        load(tmp_path / name)


def test_v2_must_be_told_what_it_predicts(tmp_path: Path) -> None:
    path = tmp_path / "v2.safetensors"
    save_file({"cond_stage_model.model.ln_final.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"set noise_schedule\.prediction_type"):
        load(path)


def xl_state(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """XL's names, by the functions under test (which other tests hold to diffusers' own)."""
    config = json.loads((folder / "unet/config.json").read_text())
    attends = tuple(name.startswith("Cross") for name in config["up_block_types"])
    for name, tensor in load_file(folder / "unet/diffusion_pytorch_model.safetensors").items():
        yield denoiser_source(name, layers_per_block=1, attends=attends).name, tensor
    for name, tensor in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        yield autoencoder_source(name, levels=2).name, tensor
    for name, tensor in load_file(folder / "text_encoder/model.safetensors").items():
        bare = name.removeprefix("text_model.")
        yield f"conditioner.embedders.0.transformer.text_model.{bare}", tensor
    second = load_file(folder / "text_encoder_2/model.safetensors")
    for name in list(second):
        source = open_clip_source(name, prefix="conditioner.embedders.1.model.")
        if source.third is None:
            yield source.name, second[name].T if source.is_transposed else second[name]
        elif source.third == 0:
            parts = [second[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            yield source.name, torch.cat(parts)


def test_xl_comes_out_of_a_single_file(tmp_path: Path) -> None:
    folder = diffusion_cases.diffusers_xl_folder(tmp_path / "theirs")
    path = tmp_path / "xl.safetensors"
    state = dict(xl_state(folder))
    state["conditioner.embedders.1.model.logit_scale"] = torch.zeros(())
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    model, expected = load(path, layout=str(folder)), load(folder)
    assert model.identity == expected.identity
    state_2 = expected.denoiser.state_dict()
    assert all(torch.equal(t, state_2[name]) for name, t in model.denoiser.state_dict().items())


@pytest.mark.parametrize("name", ["sd-v1", "sd-v2", "sd-xl", "tiny"])
def test_unet_names_are_those_that_diffusers_converts(name: str) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        module: Any = build_module(DENOISER_ARCHITECTURES[name], seed=0, where="")
    attends = tuple(block.startswith("Cross") for block in module.config.up_block_types)
    layers = module.config.layers_per_block
    original = {
        denoiser_source(key, layers_per_block=layers, attends=attends).name: key
        for key in module.state_dict()
    }
    converted = convert_ldm_unet_checkpoint(original, dict(module.config))
    assert converted == {key: key for key in module.state_dict()}


def test_autoencoder_names_are_those_that_diffusers_converts() -> None:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    with torch.device("meta"):
        module: nn.Module = AutoencoderKL.from_config(AUTOENCODER_ARCHITECTURES["sd-v1"])
    state = module.state_dict()
    original = {autoencoder_source(key, levels=4).name: tensor for key, tensor in state.items()}
    converted = convert_ldm_vae_checkpoint(original, module.config)
    assert converted.keys() == state.keys()
    assert all(converted[key] is state[key] for key in state)


def test_open_clip_names_are_those_that_diffusers_converts() -> None:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    model = diffusion_cases.clip_text_model(width=24, is_projected=True)
    state = model.state_dict()
    original: dict[str, Tensor] = {}
    for key, tensor in state.items():
        source = open_clip_source(key, prefix="p.")
        if source.third is None:
            original[source.name] = tensor.T if source.is_transposed else tensor
        elif source.third == 0:
            parts = [state[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            original[source.name] = torch.cat(parts)
    converted = convert_open_clip_checkpoint(model, original, prefix="p.")
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (["edm_vpred.sigma_max"], {}, "1 tensors belong to no part .*, edm_vpred.sigma_max"),
        (["v_pred"], {}, "says prediction_type v_prediction, not epsilon"),
        (["v_pred", "ztsnr"], {}, r"v_prediction, not epsilon and zero terminal SNR \(ztsnr\)"),
        (["ztsnr"], {}, "nothing says that the model predicts v"),
        ([], {"modelspec.prediction_type": "v"}, "says prediction_type v_prediction"),
        ([], {"modelspec.prediction_type": "sample"}, "prediction_type is 'sample'"),
        (["v_pred"], {"modelspec.prediction_type": "epsilon"}, "metadata's .* says epsilon"),
    ],
)
def test_what_a_file_says_of_its_sampling_is_not_passed_over(
    checkpoint: Path,
    folder: Path,
    tmp_path: Path,
    tensors: list[str],
    metadata: dict[str, str],
    message: str,
) -> None:
    state = {**load_file(checkpoint), **{name: torch.zeros(1) for name in tensors}}
    save_file(state, tmp_path / "marked.safetensors", metadata=metadata)
    with pytest.raises(WeightsError, match=message):
        load(tmp_path / "marked.safetensors", layout=str(folder))
