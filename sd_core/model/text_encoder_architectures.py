"""Stable Diffusion's text encoders: their classes and sizes, and their tokenizer, CLIP's own."""

from typing import Any, Final

import torch
from torch import nn

from sd_core.model.denoiser_family import TextShape
from sd_core.model.precision import seeded

PROJECTED_CLASS: Final = "CLIPTextModelWithProjection"
PLAIN_CLASS: Final = "CLIPTextModel"
T5_CLASS: Final = "T5EncoderModel"

_CLIP_WIDTH: Final = 512
"""Of CLIP's text models and their projections, where their settings say nothing."""
_CLIP_L: Final[dict[str, Any]] = {
    "architectures": [PLAIN_CLASS],
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
TEXT_ENCODER_ARCHITECTURES: Final[dict[str, dict[str, Any]]] = {
    "sd-v1": _CLIP_L,
    # OpenCLIP-H without its last layer: its last hidden state is the penultimate one of 24.
    "sd-v2": {
        **_CLIP_L,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "projection_dim": 512,
        "pad_token_id": 0,
    },
    # XL's second one, OpenCLIP-bigG; its first is sd-v1's.
    "sd-xl-2": {
        **_CLIP_L,
        "architectures": [PROJECTED_CLASS],
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "hidden_act": "gelu",
        "projection_dim": 1280,
        "pad_token_id": 0,
    },
    # Stable Diffusion 3's first one; its second is sd-xl-2.
    "sd-v3": {**_CLIP_L, "architectures": [PROJECTED_CLASS]},
}
"""transformers' settings of known text encoders, for random weights and single files."""

_CONFIG_ONLY: Final = (
    "architectures",
    "model_type",
    "transformers_version",
    "dtype",
    "torch_dtype",
)


def class_name_of_settings(settings: dict[str, Any]) -> str:
    """The transformers class that a `config.json` names; the plain one where it names none."""
    return str((settings.get("architectures") or [PLAIN_CLASS])[0])


def is_t5(settings: dict[str, Any]) -> bool:
    """Whether they are those of a T5 encoder, not of a CLIP text model."""
    return class_name_of_settings(settings) == T5_CLASS


def text_shape(settings: dict[str, Any]) -> TextShape:
    """What a text encoder of these settings gives."""
    if is_t5(settings):
        return TextShape(kind="t5", embed_dim=int(settings["d_model"]), pooled_dim=0)
    width = int(settings.get("hidden_size", _CLIP_WIDTH))
    is_projected = class_name_of_settings(settings) == PROJECTED_CLASS
    pooled = int(settings.get("projection_dim", _CLIP_WIDTH)) if is_projected else width
    return TextShape(kind="clip", embed_dim=width, pooled_dim=pooled)


def shape_of_module(module: Any) -> TextShape:
    """Of a loaded or a built one, whose configuration does not name its class."""
    return text_shape({**module.config.to_dict(), "architectures": [type(module).__name__]})


def build_text_model(settings: dict[str, Any], *, seed: int | None) -> nn.Module:
    """Build a text model with weights drawn from `seed`, or without any (None).

    Without, its parameters are on the meta device until they are assigned.
    """
    import transformers

    config_class: Any = transformers.T5Config if is_t5(settings) else transformers.CLIPTextConfig
    config = config_class(
        **{name: value for name, value in settings.items() if name not in _CONFIG_ONLY}
    )
    model_class: Any = getattr(transformers, class_name_of_settings(settings))
    if seed is not None:
        with seeded(seed):
            drawn: nn.Module = model_class(config)
        return drawn
    with torch.device("meta"):
        model: nn.Module = model_class(config)
    for part in model.modules():
        positions = torch.arange(int(getattr(config, "max_position_embeddings", 0))).expand((1, -1))
        if "position_ids" in dict(part.named_buffers(recurse=False)):
            part.register_buffer("position_ids", positions, persistent=False)
    return model
