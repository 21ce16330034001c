"""The UNet with cross-attention, of Stable Diffusion 1, 2 and XL.

Sources: Rombach et al. 2022, section 3.3, arXiv:2112.10752; Podell et al. 2023, arXiv:2307.01952
(XL's pooled text and time ids).
"""

from collections.abc import Mapping
from typing import Any, Final

import torch

from sd_core.model.conditioning import Conditioning, TextEmbeddings
from sd_core.model.denoiser_family import (
    DenoiserFamily,
    Settings,
    Texts,
    TextShape,
    first_text,
    width_fault,
)
from sd_core.model.memory import aligned
from sd_core.model.settings_check import Decisions, Limited
from sd_core.model.text_encoder_architectures import PLAIN_CLASS, PROJECTED_CLASS

UNET: Final = "UNet2DConditionModel"
_SECOND: Final = "text_encoder_2"
_POOLED: Final = "projection_class_embeddings_input_dim"

_DECISIONS: Final = Decisions(
    honoured=frozenset(
        {
            # What the module is built of; it needs no more input than it is given.
            "center_input_sample",
            "flip_sin_to_cos",
            "freq_shift",
            "down_block_types",
            "mid_block_type",
            "up_block_types",
            "only_cross_attention",
            "block_out_channels",
            "layers_per_block",
            "downsample_padding",
            "mid_block_scale_factor",
            "dropout",
            "act_fn",
            "norm_num_groups",
            "norm_eps",
            "transformer_layers_per_block",
            "reverse_transformer_layers_per_block",
            "attention_head_dim",
            "num_attention_heads",
            "use_linear_projection",
            "upcast_attention",
            "resnet_time_scale_shift",
            "resnet_skip_time_act",
            "resnet_out_scale_factor",
            "time_embedding_dim",
            "time_embedding_act_fn",
            "timestep_post_act",
            "conv_in_kernel",
            "conv_out_kernel",
            "mid_block_only_cross_attention",
            "cross_attention_norm",
            # What the model as a whole is held against when it is loaded.
            "sample_size",
            "in_channels",
            "out_channels",
            "cross_attention_dim",
            # XL's, with `addition_embed_type` "text_time".
            "addition_time_embed_dim",
            "projection_class_embeddings_input_dim",
            # The scale of guidance as an input.
            "time_cond_proj_dim",
            # An upscaler's level of noise; refused of any other model.
            "num_class_embeds",
        }
    ),
    harmless={
        "addition_embed_type_num_heads": 'only of addition_embed_type "text", which is refused',
    },
    limited={
        "addition_embed_type": Limited(
            allowed=(None, "text_time"), why="images or text as a further input are not given"
        ),
        "encoder_hid_dim": Limited(allowed=(None,), why="the text is given as it is encoded"),
        "encoder_hid_dim_type": Limited(allowed=(None,), why="the text is given as it is encoded"),
        "class_embed_type": Limited(allowed=(None,), why="no class embeddings are given"),
        "class_embeddings_concat": Limited(allowed=(False,), why="no class embeddings are given"),
        "dual_cross_attention": Limited(allowed=(False,), why="diffusers has given it up"),
        "time_embedding_type": Limited(
            allowed=("positional",), why="timesteps are given, not the logarithm of sigma"
        ),
        "attention_type": Limited(allowed=("default",), why="no boxes to ground on are given"),
    },
)


def _conditions(
    settings: Settings, conditioning: Conditioning, dtype: torch.dtype
) -> dict[str, Any]:
    """XL's pooled text and time ids; nothing of the others."""
    if not _is_xl(settings):
        return {}
    pooled, time_ids = conditioning.pooled_prompt_embeds, conditioning.time_ids
    if pooled is None or time_ids is None:
        raise ValueError(
            "this denoiser is conditioned like XL: the conditioning needs pooled_prompt_embeds and "
            "time_ids"
        )
    return {"added_cond_kwargs": {"text_embeds": aligned(pooled.to(dtype)), "time_ids": time_ids}}


def _is_xl(settings: Settings) -> bool:
    return settings.get("addition_embed_type") == "text_time"


def _text_fault(settings: Settings, texts: Mapping[str, TextShape]) -> str | None:
    """XL has a second encoder, and its refiner that one alone."""
    if (fault := width_fault(settings, texts)) is not None:
        return fault
    if _SECOND not in texts:
        wants = "wants XL's pooled text and time ids, and there is no second text encoder"
        return wants if _is_xl(settings) else None
    if not _is_xl(settings):
        return "is not XL's, and there is a second text encoder"
    width, pooled = int(settings.get(_POOLED) or 0), texts[_SECOND].pooled_dim
    allowed = [6] if len(texts) > 1 else [5, 6]
    each = int(settings.get("addition_time_embed_dim") or 0)
    if width in [pooled + count * each for count in allowed]:
        return None
    return (
        f"{_POOLED} is {width}, and the second text encoder gives pooled text of width {pooled}; "
        f"allowed: that and {' or '.join(map(str, allowed))} sizes of {each}; they are not of one "
        "model"
    )


def _join_texts(settings: Settings, texts: Texts, length: int) -> TextEmbeddings:
    """XL's side by side, with the second one's pooled text."""
    if not _is_xl(settings):
        return first_text(settings, texts, length)
    return TextEmbeddings(
        prompt_embeds=torch.cat([text.prompt_embeds for text in texts.values()], dim=-1),
        pooled_prompt_embeds=texts[_SECOND].pooled_prompt_embeds,
    )


UNET_FAMILY: Final = DenoiserFamily(
    part="unet",
    decisions=_DECISIONS,
    conditions=_conditions,
    text_classes={"text_encoder": PLAIN_CLASS, _SECOND: PROJECTED_CLASS},
    text_fault=_text_fault,
    join_texts=_join_texts,
    out_channels=4,
)
