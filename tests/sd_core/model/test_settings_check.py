"""Every key of every configuration that a model folder holds is decided about, by name.

A key that another version of diffusers, transformers or peft adds fails here until someone decides
whether it is honoured, harmless or refused.
"""

import dataclasses
import inspect
from typing import Any

import diffusers
import peft
import pytest
import transformers

from sd_core.model.autoencoder_settings import AUTOENCODER_DECISIONS, check_autoencoder_settings
from sd_core.model.denoiser_settings import (
    check_channels,
    check_denoiser_settings,
)
from sd_core.model.denoisers import DENOISERS
from sd_core.model.index_settings import INDEX_DECISIONS, PIPELINES, check_index
from sd_core.model.lora_settings import ADAPTER_DECISIONS, adapter_settings
from sd_core.model.noise_schedule import NoiseScheduleConfig, build_noise_schedule
from sd_core.model.scheduler_settings import SCHEDULER_DECISIONS
from sd_core.model.settings_check import (
    Decisions,
    Limited,
    SettingsError,
    check_settings,
    constructor_defaults,
    is_allowed,
)
from sd_core.model.text_encoder_settings import (
    TEXT_ENCODER_DECISIONS,
    TOKENIZER_DECISIONS,
    check_text_encoder_settings,
)
from sd_core.sampling.samplers import SAMPLERS, build_sampler

FLOW = build_noise_schedule(NoiseScheduleConfig(prediction_type="flow"))
PLAIN = build_noise_schedule(NoiseScheduleConfig())
SCHEDULERS = {
    type(build_sampler(name, FLOW if name.startswith("flow") else PLAIN)).__name__
    for name in SAMPLERS
}
CLASSES: list[tuple[str, Decisions]] = [
    *((name, family.decisions) for name, family in DENOISERS.items()),
    *AUTOENCODER_DECISIONS.items(),
    *((name, SCHEDULER_DECISIONS) for name in sorted(SCHEDULERS)),
]
DEPRECATED = {"StableDiffusionInpaintPipelineLegacy"}


@pytest.mark.parametrize(("name", "decisions"), CLASSES, ids=[name for name, _ in CLASSES])
def test_every_key_of_a_diffusers_constructor_is_decided_about(
    name: str, decisions: Decisions
) -> None:
    defaults = constructor_defaults(getattr(diffusers, name))
    assert len(defaults) >= 2
    assert not set(defaults) - decisions.keys
    for key, limit in decisions.limited.items():
        if key in defaults:
            assert is_allowed(defaults[key], limit.allowed), f"{key}'s default is another now"


def test_every_key_of_a_text_encoder_is_decided_about() -> None:
    parameters = inspect.signature(transformers.CLIPTextConfig.__init__).parameters
    written = transformers.CLIPTextConfig().to_dict()
    names = {name for name in {*parameters, *written} if name != "self" and name[0] != "_"}
    assert not set(names) - TEXT_ENCODER_DECISIONS.keys
    for key, limit in TEXT_ENCODER_DECISIONS.limited.items():
        if key in written:
            assert is_allowed(written[key], limit.allowed), key


def test_every_key_of_a_tokenizer_is_decided_about() -> None:
    parameters = inspect.signature(transformers.CLIPTokenizer.__init__).parameters
    names = set(parameters) - {"self", "kwargs", "vocab", "merges"}
    init = transformers.CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[])
    assert not set(names | set(init.init_kwargs)) - TOKENIZER_DECISIONS.keys


@pytest.mark.parametrize("name", [name for name in PIPELINES if name not in DEPRECATED])
def test_every_part_and_option_of_a_pipeline_is_decided_about(name: str) -> None:
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    assert not set(set(parameters) - {"self"}) - INDEX_DECISIONS.keys


def test_every_key_of_an_adapter_is_decided_about() -> None:
    names = {one.name for one in dataclasses.fields(peft.LoraConfig)}
    assert not set(names) - ADAPTER_DECISIONS.keys
    check_settings(peft.LoraConfig().to_dict(), ADAPTER_DECISIONS, where="default")


DECISIONS = Decisions(
    honoured=frozenset({"width"}),
    harmless={"note": "never read"},
    limited={"mode": Limited(allowed=("plain", None), why="nothing else is done")},
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 3, "note": [1], "mode": None, "_name": "x", "more": None}, None),
        (
            {"mode": "odd"},
            r"f: mode is 'odd'; allowed: 'plain' or null \(nothing else is done\); n",
        ),
        ({"more": False}, "f: more is False, a key that is not known here; name a model without"),
    ],
)
def test_what_is_found_and_what_is_allowed_are_named(
    settings: dict[str, Any], message: str | None
) -> None:
    if message is None:
        check_settings(settings, DECISIONS, where="f")
        return
    with pytest.raises(SettingsError, match=message):
        check_settings(settings, DECISIONS, where="f")


def test_all_faults_are_told_together() -> None:
    with pytest.raises(SettingsError) as caught:
        check_settings({"mode": 1, "more": 2}, DECISIONS, where="f")
    assert len(str(caught.value).splitlines()) == 2


UNET = {"_class_name": "UNet2DConditionModel"}
PIXART = {"_class_name": "PixArtTransformer2DModel", "sample_size": 64}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({**UNET, "class_embed_type": "timestep"}, "class_embed_type"),
        ({**UNET, "class_embeddings_concat": True}, "class_embeddings_concat"),
        ({**UNET, "encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type"),
        ({**UNET, "encoder_hid_dim": 64}, "encoder_hid_dim"),
        ({**UNET, "addition_embed_type": "image"}, "addition_embed_type"),
        ({**UNET, "addition_embed_type": "text"}, "addition_embed_type"),
        ({**UNET, "time_embedding_type": "fourier"}, "time_embedding_type"),
        ({**UNET, "attention_type": "gated"}, "attention_type"),
        ({**UNET, "dual_cross_attention": True}, "dual_cross_attention"),
        ({**UNET, "quantization_config": {"bits": 4}}, "quantization_config"),
        ({**UNET, "sample_size": [64, 48]}, "sample_size"),
        ({**PIXART, "use_additional_conditions": True}, "use_additional_conditions"),
        ({**PIXART, "attention_type": "gated"}, "attention_type"),
        ({**PIXART, "use_rotary": True}, "use_rotary"),
    ],
)
def test_a_denoiser_that_needs_more_is_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=f"f: {key} is "):
        check_denoiser_settings(settings, where="f")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**UNET, "num_class_embeds": 10}, "num_class_embeds is 10"),
        ({**UNET, "out_channels": 8}, "out_channels is 8"),
        ({**PIXART, "out_channels": 12}, "out_channels is 12.*allowed: 4 or 8"),
    ],
)
def test_a_denoiser_gives_latents_and_wants_no_classes(
    settings: dict[str, Any], message: str
) -> None:
    check_channels({**UNET, "in_channels": 7, "num_class_embeds": 1000}, latent_channels=4)
    check_channels(PIXART, latent_channels=4)
    with pytest.raises(SettingsError, match=message):
        check_channels(settings, latent_channels=4)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"_class_name": "AutoencoderKL", "latents_mean": [0.0]}, "latents_mean"),
        ({"_class_name": "AutoencoderKL", "latents_std": [1.0]}, "latents_std"),
        ({"_class_name": "AutoencoderKL", "in_channels": 4}, "in_channels"),
        ({"_class_name": "AutoencoderKL", "patch_size": 2}, "patch_size"),
        ({"_class_name": "AutoencoderTiny", "upsampling_scaling_factor": 4}, "upsampling_scal"),
        ({"_class_name": "VQModel", "lookup_from_codebook": True}, "lookup_from_codebook"),
        ({"_class_name": "VQModel", "latent_channels": 4, "vq_embed_dim": 8}, "vq_embed_dim"),
    ],
)
def test_an_autoencoder_of_another_kind_is_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=f"f: {key}"):
        check_autoencoder_settings(settings, where="f")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"model_type": "t5", "d_model": 4}, "model_type"),
        ({"text_config": {"hidden_size": 4}}, "text_config"),
        ({"quantization_config": {"bits": 8}}, "quantization_config"),
        ({"return_dict": False}, "return_dict"),
        ({"chunk_size_feed_forward": 2}, "chunk_size_feed_forward"),
    ],
)
def test_a_text_encoder_of_another_kind_is_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=f"f: {key} is "):
        check_text_encoder_settings(settings, where="f")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"_class_name": "StableDiffusionControlNetPipeline"}, "_class_name is 'StableDiffusionC"),
        ({"_class_name": ["custom", "Mine"]}, "_class_name is "),
        ({"controlnet": ["diffusers", "ControlNetModel"]}, "controlnet is "),
        ({"prior": ["diffusers", "PriorTransformer"]}, "prior is "),
        ({"requires_aesthetics_score": True}, "requires_aesthetics_score is True"),
        ({"tokenizer": ["transformers", "T5Tokenizer"]}, "tokenizer is a T5Tokenizer"),
    ],
)
def test_a_pipeline_with_more_is_refused(index: dict[str, Any], message: str) -> None:
    check_index({"safety_checker": ["x", "y"], "image_encoder": [None, None]}, where="f")
    with pytest.raises(SettingsError, match=message):
        check_index(index, where="f")


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"something_new": 1}, "something_new"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(content: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=f"f: {key} is "):
        adapter_settings(content, where="f")
