"""A LoRA file changes the weights by what it says, and one of another model is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.lora import LoraConfig, fuse_loras, model_parts
from sd_core.model.settings_check import SettingsError
from sd_core.model.weights import WeightsError, weights_sha256
from tests import diffusion_cases
from tests.sd_core.sampling.cases import random_model


def layer_of(model: Any) -> str:
    """The first cross-attention's query of the random UNet."""
    return next(
        name.removesuffix(".weight")
        for name, _ in model.denoiser.named_parameters()
        if name.endswith("attn2.to_q.weight")
    )


def write_lora(path: Path, model: Any, *, rank: int = 2) -> tuple[str, torch.Tensor]:
    """A file in peft's format for one layer; returns the layer and the change of its weights."""
    name = layer_of(model)
    weight = model.denoiser.get_parameter(f"{name}.weight")
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(rank, weight.shape[1], generator=generator) * 0.1
    up = torch.randn(weight.shape[0], rank, generator=generator) * 0.1
    save_file({f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}, path)
    return name, up @ down


@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_a_file_adds_its_product_times_the_scale_and_nothing_else(
    tmp_path: Path, scale: float
) -> None:
    model = random_model(tmp_path / "model")
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    name, change = write_lora(tmp_path / "lora.safetensors", model)
    lora = LoraConfig(model=str(tmp_path / "lora.safetensors"), scale=scale)
    fused = fuse_loras(model, [lora], where="generate.loras")
    assert fused.identity == model.identity  # the text encoder is as it was
    after = model.denoiser.state_dict()
    assert after.keys() == before.keys()
    for key, value in after.items():
        expected = before[key]
        if key == f"{name}.weight":
            expected = expected + scale * change
        assert np.allclose(value, expected, atol=1e-6), key


def test_a_file_of_another_model_or_form_is_refused(tmp_path: Path) -> None:
    model = random_model(tmp_path / "model")
    wrong = tmp_path / "wrong.safetensors"
    name = layer_of(model)
    ranks = {"lora_A.weight": torch.zeros(2, 7), "lora_B.weight": torch.zeros(9, 2)}
    save_file({f"unet.{name}.{end}": value for end, value in ranks.items()}, wrong)
    with pytest.raises(WeightsError, match=r"generate\.loras\.0\.model: wrong\.safetensors"):
        fuse_loras(model, [LoraConfig(model=str(wrong))], where="generate.loras")
    pickled = tmp_path / "lora.bin"
    pickled.write_bytes(b"\x80\x04")
    with pytest.raises(WeightsError, match=r"no \.safetensors file"):
        fuse_loras(model, [LoraConfig(model=str(pickled))], where="generate.loras")
    with pytest.raises(WeightsError):
        fuse_loras(model, [LoraConfig(model=str(tmp_path / "gone.safetensors"))], where="x")


def pair_of(weight: torch.Tensor, *, rank: int = 2, seed: int = 0) -> tuple[Any, Any]:
    """A down and an up half for a layer's weight."""
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.1
    up = torch.randn(weight.shape[0], rank, generator=generator) * 0.1
    return down, up.reshape(*up.shape, *[1] * (weight.ndim - 2))


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffusion_cases.diffusers_xl_folder(tmp_path_factory.mktemp("lora") / "xl")


def load(folder: Path) -> LatentDiffusion:
    return load_latent_diffusion(LatentDiffusionConfig(model=str(folder)), device="cpu")


QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
CONVOLUTION = "down_blocks.0.resnets.0.conv1"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
SPELLINGS = [
    ("unet", QUERY, "lora_unet_" + QUERY.replace(".", "_"), "kohya"),
    ("unet", QUERY, "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_q", "kohya"),
    ("unet", CONVOLUTION, "lora_unet_" + CONVOLUTION.replace(".", "_"), "kohya"),
    ("unet", CONVOLUTION, "lora_unet_input_blocks_1_0_in_layers_2", "kohya"),
    ("unet", QUERY, f"unet.{QUERY}", "peft"),
    ("unet", QUERY, f"unet.{QUERY}", "diffusers"),
    ("unet", QUERY, f"unet.{QUERY.replace('.to_q', '.processor.to_q')}", "processor"),
    ("text_encoder", TEXT, "lora_te1_" + TEXT.replace(".", "_"), "kohya"),
    ("text_encoder", TEXT, f"text_encoder.{TEXT}", "peft"),
    ("text_encoder_2", TEXT, "lora_te2_" + TEXT.replace(".", "_"), "kohya"),
    ("text_encoder_2", TEXT, f"text_encoder_2.{TEXT}", "peft"),
]
ENDS = {
    "kohya": (".lora_down.weight", ".lora_up.weight"),
    "peft": (".lora_A.weight", ".lora_B.weight"),
    "diffusers": (".lora.down.weight", ".lora.up.weight"),
    "processor": ("_lora.down.weight", "_lora.up.weight"),
}


def layer(model: LatentDiffusion, part: str, name: str) -> torch.nn.Module:
    module = model_parts(model)[part]
    names = dict(module.named_modules())
    return names.get(name) or names[name.removeprefix("text_model.")]


@pytest.mark.parametrize(("part", "name", "spelled", "form"), SPELLINGS)
def test_every_spelling_adds_scale_times_alpha_by_rank_times_the_product(
    tmp_path: Path, xl: Path, part: str, name: str, spelled: str, form: str
) -> None:
    model = load(xl)
    changed: Any = layer(model, part, name)
    before = changed.weight.detach().clone()
    others = {n: weights_sha256(m) for n, m in model_parts(model).items() if n != part}
    down, up = pair_of(before)
    ends = ENDS[form]
    tensors = {spelled + ends[0]: down, spelled + ends[1]: up}
    alpha = 1.0 if form == "kohya" else 2.0
    if form == "kohya":
        tensors[f"{spelled}.alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "lora.safetensors")
    fused = fuse_loras(
        model, [LoraConfig(model=str(tmp_path / "lora.safetensors"), scale=0.5)], where="l"
    )
    product = (up.flatten(1) @ down.flatten(1)).reshape(before.shape)
    expected = before + 0.5 * (alpha / 2) * product
    torch.testing.assert_close(changed.weight, expected, atol=1e-6, rtol=0)
    assert not torch.equal(changed.weight, before)
    assert others == {n: weights_sha256(m) for n, m in model_parts(model).items() if n != part}
    assert (fused.identity == load(xl).identity) == (part == "unet")


def peft_model(module: torch.nn.Module, config: Any) -> Any:
    """A module with peft's own adapter, its second half drawn too (peft starts it at 0)."""
    import peft

    wrapped = peft.get_peft_model(module, config)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            drawn = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.data.copy_(drawn)
        if "lora_magnitude" in name:
            parameter.data.mul_(1.3)
    return wrapped


@pytest.mark.parametrize(
    "options",
    [
        {"lora_alpha": 8},
        {"lora_alpha": 8, "use_rslora": True},
        {"alpha_pattern": {"conv1": 16}, "rank_pattern": {"attn2.to_q": 3}},
        {"use_dora": True},
    ],
)
def test_an_adapter_that_peft_saved_is_merged_as_peft_merges_it(
    tmp_path: Path, xl: Path, options: dict[str, Any]
) -> None:
    import peft

    theirs = load(xl)
    config = peft.LoraConfig(r=4, target_modules=["attn2.to_q", "conv1"], **options)
    wrapped = peft_model(theirs.denoiser, config)
    wrapped.save_pretrained(tmp_path / "adapter")
    merged = wrapped.merge_and_unload()
    model = load(xl)
    before = weights_sha256(model.denoiser)
    lora = LoraConfig(model=str(tmp_path / "adapter"))
    fuse_loras(model, [lora], where="l")
    assert weights_sha256(model.denoiser) != before
    expected = merged.state_dict()
    for name, value in model.denoiser.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=2e-6, rtol=1e-5, msg=name)
    (tmp_path / "adapter/adapter_config.json").unlink()
    with pytest.raises(WeightsError, match=r"no adapter_config\.json beside it"):
        fuse_loras(model, [lora], where="l")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"unet.nothing.lora_A.weight": (2, 4), "unet.nothing.lora_B.weight": (4, 2)}, "fits no"),
        ({f"unet.{QUERY}.lora_A.weight": (2, 8)}, "lacks the up half"),
        ({f"unet.{QUERY}.lora_B.weight": (8, 2)}, "lacks the down half"),
        (
            {f"unet.{QUERY}.lora_A.weight": (2, 8), f"unet.{QUERY}.lora_B.weight": (8, 3)},
            "different ranks",
        ),
        (
            {f"unet.{QUERY}.lora_A.weight": (2, 9), f"unet.{QUERY}.lora_B.weight": (8, 2)},
            "another kind of model",
        ),
        (
            {
                "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (2, 32),
                "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (64, 2),
            },
            "of a text_encoder_2, which this model has not",
        ),
        ({f"unet.{QUERY}.alpha": ()}, "lacks the down half"),
        ({"lora_unet_conv_in.lokr_w1": (2, 2)}, "is of LoKr"),
        ({"lora_unet_conv_in.diff": (2, 2)}, "a whole difference"),
        ({"bundle_emb.x.string_to_param.*": (2, 2)}, "textual inversion"),
        ({"anything": (2, 2)}, "anything is no part of a LoRA"),
    ],
)
def test_no_tensor_is_passed_over(
    tmp_path: Path, keys: dict[str, tuple[int, ...]], message: str
) -> None:
    model = load(diffusion_cases.diffusers_folder(tmp_path / "model"))
    before = {name: weights_sha256(module) for name, module in model_parts(model).items()}
    save_file({key: torch.ones(shape) for key, shape in keys.items()}, tmp_path / "l.safetensors")
    with pytest.raises(SettingsError, match=message) as caught:
        fuse_loras(model, [LoraConfig(model=str(tmp_path / "l.safetensors"))], where="l")
    assert next(iter(keys)).split(".")[0] in str(caught.value)
    assert before == {name: weights_sha256(module) for name, module in model_parts(model).items()}
