"""The denoiser: real sizes, one call for each class, wrapped or not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sd_core.model import text_encoder_architectures
from sd_core.model.autoencoder_config import AUTOENCODER_ARCHITECTURES
from sd_core.model.conditioning import Conditioning, concatenate_conditionings
from sd_core.model.denoiser import DenoiserConfig, load_denoiser, predict, unwrap_module
from sd_core.model.denoiser_loading import DENOISER_ARCHITECTURES, read_state
from sd_core.model.weights import WeightsError
from tests.diffusion_cases import TRANSFORMER, UNET


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def random_denoiser(settings: dict[str, Any]) -> nn.Module:
    return load_denoiser(DenoiserConfig(settings=settings), device="cpu")


def inputs(*, rows: int = 2) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(rows, 4, 16, 16, generator=generator),
        torch.arange(rows) * 400,
        Conditioning(prompt_embeds=torch.randn(rows, 12, 32, generator=generator)),
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sd-v1", 859_520_964), ("sd-v2", 865_910_724), ("sd-xl", 2_567_463_684)],
)
def test_unets_have_the_published_sizes(name: str, parameters: int) -> None:
    config = DenoiserConfig(model=name, pretrained=False)
    with torch.device("meta"):
        assert count(load_denoiser(config, device="meta")) == parameters


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # KerasHub's presets: params of stable_diffusion_3_medium and stable_diffusion_3.5_large
        ("sd-3-medium", 2_987_080_931),
        ("sd-3.5-large", 9_048_410_595),
        # The Hub's file of 3.5 Medium's transformer, 4.94 GB in bfloat16, is of 2,469,663,936
        ("sd-3.5-medium", 2_469_663_936 + 902_129_827),
    ],
)
def test_stable_diffusion_3_has_the_published_sizes(name: str, expected: int) -> None:
    """Of both CLIPs, MMDiT with its table of positions, and autoencoder, without T5."""
    from diffusers import AutoencoderKL

    texts = text_encoder_architectures.TEXT_ENCODER_ARCHITECTURES
    with torch.device("meta"):
        denoiser = load_denoiser(DenoiserConfig(model=name, pretrained=False), device="meta")
        parts = [
            AutoencoderKL.from_config(AUTOENCODER_ARCHITECTURES["sd-3"]),
            *(
                text_encoder_architectures.build_text_model(texts[name], seed=None)
                for name in ("sd-v3", "sd-xl-2")
            ),
        ]
    whole = sum(tensor.numel() for tensor in denoiser.state_dict().values())
    assert whole + sum(map(count, parts)) == expected


def test_t5_has_the_published_size() -> None:
    settings = {  # google/t5-v1_1-xxl
        "architectures": ["T5EncoderModel"],
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    }
    assert count(text_encoder_architectures.build_text_model(settings, seed=None)) == 4_762_310_656


def test_the_encoders_of_stable_diffusion_have_the_published_sizes() -> None:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        autoencoder = AutoencoderKL.from_config(AUTOENCODER_ARCHITECTURES["sd-v1"])
        texts = {
            name: count(text_encoder_architectures.build_text_model(settings, seed=None))
            for name, settings in text_encoder_architectures.TEXT_ENCODER_ARCHITECTURES.items()
        }
    assert count(autoencoder) == 83_653_863
    assert texts == {
        "sd-v1": 123_060_480,
        "sd-v2": 340_387_840,
        "sd-v3": 123_650_304,
        "sd-xl-2": 694_659_840,
    }


def test_the_tiny_one_is_under_forty_megabytes() -> None:
    with torch.device("meta"):
        tiny = load_denoiser(DenoiserConfig(model="tiny", pretrained=False), device="meta")
    assert count(tiny) * 4 < 40_000_000


def test_random_weights_repeat_by_seed() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        load_denoiser(DenoiserConfig(settings=UNET, seed=seed), device="cpu").state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_unet_is_called_as_diffusers_calls_it() -> None:
    denoiser: Any = random_denoiser(UNET)
    latents, timesteps, conditioning = inputs()
    with torch.no_grad():
        expected = denoiser(latents, timesteps, conditioning.prompt_embeds).sample
        assert torch.equal(predict(denoiser, latents, timesteps, conditioning), expected)


def test_a_transformers_variance_is_left_out() -> None:
    denoiser: Any = random_denoiser(TRANSFORMER)
    latents, timesteps, conditioning = inputs()
    with torch.no_grad():
        whole = denoiser(
            latents,
            encoder_hidden_states=conditioning.prompt_embeds,
            timestep=timesteps,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        found = predict(denoiser, latents, timesteps, conditioning)
    assert whole.shape == (2, 8, 16, 16)
    assert torch.equal(found, whole[:, :4])


@pytest.mark.parametrize("settings", [UNET, TRANSFORMER], ids=["unet", "transformer"])
def test_text_and_time_change_the_prediction(settings: dict[str, Any]) -> None:
    denoiser = random_denoiser(settings)
    latents, timesteps, conditioning = inputs()
    other = Conditioning(prompt_embeds=conditioning.prompt_embeds.flip(0))
    with torch.no_grad():
        found = predict(denoiser, latents, timesteps, conditioning)
        assert not torch.equal(found, predict(denoiser, latents, timesteps, other))
        assert not torch.equal(found, predict(denoiser, latents, timesteps + 1, conditioning))


def test_a_wrapped_denoiser_predicts_and_learns_alike() -> None:
    denoiser = random_denoiser(UNET)

    class Wrapped(nn.Module):  # as DistributedDataParallel and torch.compile keep theirs
        def __init__(self, name: str, inner: nn.Module) -> None:
            super().__init__()
            self.name = name
            self.add_module(name, inner)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(self, self.name)(*args, **kwargs)

    wrapped = Wrapped("module", Wrapped("_orig_mod", denoiser))
    assert unwrap_module(wrapped) is denoiser
    found = predict(wrapped, *inputs())
    assert torch.equal(found, predict(denoiser, *inputs()))
    found.square().mean().backward()
    assert all(parameter.grad is not None for parameter in denoiser.parameters())


def test_bf16_weights_give_a_float32_prediction_nearby() -> None:
    exact = predict(random_denoiser(UNET), *inputs())
    config = DenoiserConfig(settings=UNET, precision="bf16")
    rough = predict(load_denoiser(config, device="cpu"), *inputs())
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.1


def test_xl_needs_its_pooled_text_and_time_ids() -> None:
    settings = {
        **UNET,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    }
    with pytest.raises(ValueError, match="conditioned like XL"):
        predict(random_denoiser(settings), *inputs())


def test_weights_in_several_files_are_one_model(tmp_path: Path) -> None:
    denoiser: Any = random_denoiser(UNET)
    denoiser.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 1
    loaded = load_denoiser(DenoiserConfig(model=str(tmp_path)), device="cpu")
    state = denoiser.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert read_state(tmp_path, where="").keys() == state.keys()


def test_a_folders_architecture_may_be_taken_without_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(UNET))
    denoiser = load_denoiser(DenoiserConfig(model=str(tmp_path), pretrained=False), device="cpu")
    assert count(denoiser) == count(random_denoiser(UNET))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_size": 16}, "a model without _class_name; a denoiser is"),
        ({"_class_name": "AutoencoderKL"}, "a AutoencoderKL; a denoiser is"),
        ({**UNET, "block_out_channels": [8]}, "cannot be built of these settings"),
        ({**TRANSFORMER, "sample_size": 128}, "use_additional_conditions"),
    ],
)
def test_settings_that_make_no_denoiser_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        random_denoiser(settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "set one of model"),
        ({"model": "sd-v1", "settings": {}}, "set one of model"),
        ({"model": "sd-v1"}, "is an architecture without weights"),
    ],
)
def test_a_section_names_one_denoiser(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DenoiserConfig.model_validate(options)


def test_a_section_describes_itself() -> None:
    config = DenoiserConfig(model="sd-v1", pretrained=False, seed=3)
    assert config.describe() == "sd-v1, RANDOM weights of seed 3"
    assert config.weight_needs("train.denoiser") == []
    folder = DenoiserConfig(model="hub:a/b@1234/unet")
    assert [need.ref for need in folder.weight_needs("denoiser")] == ["hub:a/b@1234/unet"]
    small = {"sd-v1", "sd-v2", "sd-xl", "tiny"}
    assert set(DENOISER_ARCHITECTURES) == small | {"sd-3-medium", "sd-3.5-medium", "sd-3.5-large"}


def test_conditionings_are_joined_and_expanded_whole() -> None:
    one = Conditioning(
        prompt_embeds=torch.randn(1, 3, 4),
        pooled_prompt_embeds=torch.randn(1, 2),
        time_ids=torch.randn(1, 6),
    )
    three = one.expand(3)
    both = concatenate_conditionings([three, one])
    assert len(both) == 4
    assert both.prompt_embeds.shape == (4, 3, 4)
    assert both.pooled_prompt_embeds is not None
    assert torch.equal(both.pooled_prompt_embeds[2:3], both.pooled_prompt_embeds[3:])
    assert both.to(dtype=torch.bfloat16).prompt_embeds.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="1 of 2 conditionings have pooled_prompt_embeds"):
        concatenate_conditionings([one, Conditioning(prompt_embeds=one.prompt_embeds)])
    with pytest.raises(ValueError, match="of 3 rows cannot be expanded"):
        three.expand(2)
