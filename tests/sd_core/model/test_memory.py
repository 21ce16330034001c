"""The same weights and rows give the same bytes, wherever a file or an array puts them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines.steps.score.heads import HeadConfig, load_head
from sd_core.model.autoencoder import Autoencoder, decode_latents, encode_images, load_autoencoder
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.clip import Clip, ClipConfig, load_clip
from sd_core.model.conditioning import Conditioning
from sd_core.model.denoiser import DenoiserConfig, load_denoiser, predict
from sd_core.model.lora import LoraConfig, fuse_loras
from sd_core.model.memory import ALIGNMENT_BYTES, aligned, place_module
from sd_core.model.text_encoder import TextEncoderConfig, encode_captions, load_text_encoder
from tests import diffusion_cases, model_cases
from tests.sd_core.model.test_lora import write_lora
from tests.sd_core.sampling.cases import random_model

OFFSETS = (8, 24, 56)  # bytes past a multiple of 64 at which a file's tensors begin


def misaligned(tensor: Tensor, *, elements: int = 1) -> Tensor:
    """The same values at an address that is no multiple of 64 bytes."""
    room = torch.empty(tensor.numel() + elements, dtype=tensor.dtype)
    view = room[elements:].view(tensor.shape)
    view.copy_(tensor)
    assert view.data_ptr() % ALIGNMENT_BYTES
    return view


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_lies_aligned(module: nn.Module) -> None:
    tensors = [*module.parameters(), *module.buffers()]
    assert tensors
    assert not [t.shape for t in tensors if t.numel() and t.data_ptr() % ALIGNMENT_BYTES]


def clip_results(folder: Path) -> tuple[nn.Module, list[Tensor]]:
    clip: Clip = load_clip(ClipConfig(name=str(folder)), device="cpu")
    pixels = (draw(2, 3, 32, 32) * 40 + 128).clamp(0, 255).to(torch.uint8)
    return clip.model, [clip.encode_images(pixels), clip.encode_captions(["a cat", ""])]


def autoencoder_results(folder: Path) -> tuple[nn.Module, list[Tensor]]:
    loaded: Autoencoder = load_autoencoder(AutoencoderConfig(model=str(folder)), device="cpu")
    raw = encode_images(loaded, draw(2, 3, 32, 32), form="mean")
    return loaded.module, [raw, decode_latents(loaded, raw)]


def text_encoder_results(folder: Path) -> tuple[nn.Module, list[Tensor]]:
    loaded = load_text_encoder(TextEncoderConfig(model=str(folder)), device="cpu")
    encoded = encode_captions(loaded, ["a cat", ""])
    return loaded.module, [encoded.prompt_embeds, encoded.pooled_prompt_embeds]


def denoiser_results(folder: Path) -> tuple[nn.Module, list[Tensor]]:
    loaded = load_denoiser(DenoiserConfig(model=str(folder / "unet")), device="cpu")
    conditioning = Conditioning(prompt_embeds=draw(2, 12, 32))
    with torch.no_grad():
        found = predict(loaded, draw(2, 4, 16, 16), torch.tensor([1, 500]), conditioning)
    return loaded, [found]


def head_results(folder: Path) -> tuple[nn.Module, list[Tensor]]:
    config = HeadConfig(weights=str(folder / "head.safetensors"))
    head = load_head(config, kind="aesthetic", embed_dim=16, where="score.head")
    return head, [head(draw(3, 16))]


def head_folder(folder: Path) -> Path:
    folder.mkdir()
    model_cases.aesthetic_head(folder / "head.safetensors")
    return folder


MODELS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "clip": (model_cases.clip_folder, clip_results),
    "autoencoder": (model_cases.autoencoder_folder, autoencoder_results),
    "tiny autoencoder": (
        lambda folder: model_cases.autoencoder_folder(folder, kind="tiny"),
        autoencoder_results,
    ),
    "text encoder": (diffusion_cases.diffusers_folder, text_encoder_results),
    "denoiser": (diffusion_cases.diffusers_folder, denoiser_results),
    "head": (head_folder, head_results),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_computes_alike_wherever_its_file_puts_the_weights(
    tmp_path: Path, name: str
) -> None:
    make, results = MODELS[name]
    folder = make(tmp_path / "model")
    _, expected = results(folder)
    for past in OFFSETS:
        model_cases.shift_tensors(folder, past=past)
        module, found = results(folder)
        assert_lies_aligned(module)
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other), past


def test_a_batch_is_computed_alike_wherever_it_lies(tmp_path: Path) -> None:
    config = AutoencoderConfig(model=str(model_cases.autoencoder_folder(tmp_path / "vae")))
    autoencoder = load_autoencoder(config, device="cpu")
    images, latents = draw(2, 3, 32, 32), draw(2, 4, 16, 16)
    encoded = encode_images(autoencoder, images, form="mean")
    assert torch.equal(encoded, encode_images(autoencoder, misaligned(images), form="mean"))
    decoded = decode_latents(autoencoder, latents)
    assert torch.equal(decoded, decode_latents(autoencoder, misaligned(latents)))

    denoiser = load_denoiser(DenoiserConfig(settings=diffusion_cases.UNET), device="cpu")
    embeds, steps = draw(2, 12, 32), torch.tensor([1, 500])
    with torch.no_grad():
        expected = predict(denoiser, latents, steps, Conditioning(prompt_embeds=embeds))
        conditioning = Conditioning(prompt_embeds=misaligned(embeds))
        assert torch.equal(expected, predict(denoiser, misaligned(latents), steps, conditioning))

    head = load_head(
        HeadConfig(weights=str(model_cases.aesthetic_head(tmp_path / "head.safetensors"))),
        kind="aesthetic",
        embed_dim=16,
        where="score.head",
    )
    embeddings = draw(5, 16)
    assert torch.equal(head(embeddings), head(misaligned(embeddings)))


def test_an_array_of_numpy_is_brought_to_aligned_memory() -> None:
    for start in range(1, 16):
        array = np.arange(100, dtype=np.float32)[start:]
        tensor = aligned(torch.from_numpy(array))
        assert tensor.data_ptr() % ALIGNMENT_BYTES == 0
        assert torch.equal(tensor, torch.from_numpy(array))


def test_tied_weights_stay_tied_and_keep_their_layout() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
            self.other = nn.Conv2d(4, 4, 3)
            self.other.weight = self.one.weight

    module = Tied()
    weight, strides = module.one.weight, module.one.weight.stride()
    place_module(module, device="cpu")
    assert module.one.weight is module.other.weight is weight
    assert weight.stride() == strides


def test_a_lora_changes_weights_alike_wherever_its_file_puts_it(tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    fused = []
    for past in OFFSETS:
        model = random_model(tmp_path / f"model{past}")
        write_lora(folder / "lora.safetensors", model, rank=5)
        model_cases.shift_tensors(folder, past=past)
        lora = LoraConfig(model=str(folder / "lora.safetensors"))
        fuse_loras(model, [lora], where="generate.loras")
        fused.append(model.denoiser.state_dict())
    for other in fused[1:]:
        assert all(torch.equal(value, other[name]) for name, value in fused[0].items())
