"""A LoRA file changes the weights by what it says, and one of another model is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sd_core.model.lora import LoraConfig, fuse_loras
from sd_core.model.weights import WeightsError
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
