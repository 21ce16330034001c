"""PixArt's transformer.

Source: Chen et al. 2023, arXiv:2310.00426.
"""

from typing import Any, Final

import torch

from sd_core.model.conditioning import Conditioning
from sd_core.model.denoiser_family import DenoiserFamily, Settings
from sd_core.model.settings_check import Decisions, Limited
from sd_core.model.text_encoder_architectures import PLAIN_CLASS

TRANSFORMER: Final = "PixArtTransformer2DModel"

_DECISIONS: Final = Decisions(
    honoured=frozenset(
        {
            "num_attention_heads",
            "attention_head_dim",
            "in_channels",
            "out_channels",
            "num_layers",
            "dropout",
            "norm_num_groups",
            "cross_attention_dim",
            "attention_bias",
            "sample_size",
            "patch_size",
            "activation_fn",
            "num_embeds_ada_norm",
            "upcast_attention",
            "norm_type",
            "norm_elementwise_affine",
            "norm_eps",
            "interpolation_scale",
            "caption_channels",
        }
    ),
    limited={
        "use_additional_conditions": Limited(
            allowed=(None, False), why="resolution and aspect ratio are not given"
        ),
        "attention_type": Limited(allowed=("default",), why="no boxes to ground on are given"),
    },
)


def _conditions(
    settings: Settings, conditioning: Conditioning, dtype: torch.dtype
) -> dict[str, Any]:
    """Micro-conditions on resolution and aspect ratio are for checkpoints trained with them."""
    return {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}


def _completed(settings: Settings) -> Settings:
    """With diffusers' own rule: at this size no word on further conditions means yes."""
    if settings.get("sample_size", 128) != 128:
        return settings
    wanted = settings.get("use_additional_conditions")
    return {**settings, "use_additional_conditions": True if wanted is None else wanted}


TRANSFORMER_FAMILY: Final = DenoiserFamily(
    part="transformer",
    decisions=_DECISIONS,
    conditions=_conditions,
    text_classes={"text_encoder": PLAIN_CLASS},
    out_channels=8,
    predicts_variance=True,
    computes_tensors=True,
    pipeline="PixArtAlphaPipeline",
    completed=_completed,
)
