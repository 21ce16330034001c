"""Stable Diffusion's text encoders: their sizes, and their tokenizer, which is CLIP's own."""

from typing import Any, Final

import torch
from torch import nn

from sd_core.model.precision import seeded

PROJECTED_CLASS: Final = "CLIPTextModelWithProjection"
PLAIN_CLASS: Final = "CLIPTextModel"

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


def build_text_model(settings: dict[str, Any], *, seed: int | None) -> nn.Module:
    """Build a CLIP text model with weights drawn from `seed`, or without any (None).

    Without, its parameters are on the meta device until they are assigned.
    """
    import transformers

    config = transformers.CLIPTextConfig(
        **{name: value for name, value in settings.items() if name not in _CONFIG_ONLY}
    )
    model_class: Any = getattr(transformers, class_name_of_settings(settings))
    if seed is not None:
        with seeded(seed):
            drawn: nn.Module = model_class(config)
        return drawn
    with torch.device("meta"):
        model: nn.Module = model_class(config)
    positions = torch.arange(int(config.max_position_embeddings)).expand((1, -1))
    for part in model.modules():
        if "position_ids" in dict(part.named_buffers(recurse=False)):
            part.register_buffer("position_ids", positions, persistent=False)
    return model
