"""Stable Diffusion 3's transformer, whose text and image tokens attend to each other.

Source: Esser et al. 2024, section 4, arXiv:2403.03206.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch

from sd_core.model.conditioning import Conditioning, TextEmbeddings
from sd_core.model.denoiser_family import DenoiserFamily, Settings, Texts, TextShape
from sd_core.model.memory import aligned
from sd_core.model.settings_check import Decisions
from sd_core.model.text_encoder_architectures import PROJECTED_CLASS, T5_CLASS

MMDIT: Final = "SD3Transformer2DModel"
_CLIPS: Final = ("text_encoder", "text_encoder_2")
_T5: Final = "text_encoder_3"

_DECISIONS: Final = Decisions(
    honoured=frozenset(
        {
            "sample_size",
            "patch_size",
            "in_channels",
            "out_channels",
            "num_layers",
            "attention_head_dim",
            "num_attention_heads",
            "joint_attention_dim",
            "caption_projection_dim",
            "pooled_projection_dim",
            "pos_embed_max_size",
            "dual_attention_layers",
            "qk_norm",
        }
    ),
)


def _conditions(
    settings: Settings, conditioning: Conditioning, dtype: torch.dtype
) -> dict[str, Any]:
    pooled = conditioning.pooled_prompt_embeds
    if pooled is None:
        raise ValueError(
            "this denoiser is conditioned like Stable Diffusion 3: the conditioning needs "
            "pooled_prompt_embeds"
        )
    return {"pooled_projections": aligned(pooled.to(dtype))}


def _text_fault(settings: Settings, texts: Mapping[str, TextShape]) -> str | None:
    width, pooled = int(settings["joint_attention_dim"]), int(settings["pooled_projection_dim"])
    kinds: dict[str, str] = {name: text.kind for name, text in texts.items()}
    if {_T5: "t5", **kinds} != {**dict.fromkeys(_CLIPS, "clip"), _T5: "t5"}:
        found = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        return (
            f"is Stable Diffusion 3's, and the text encoders are {found}; allowed: "
            f"{' and '.join(_CLIPS)} of CLIP, and {_T5} of T5 or none"
        )
    clips = [texts[name] for name in _CLIPS]
    widths = {
        f"{_T5} gives text": (texts[_T5].embed_dim if _T5 in texts else width, width),
        f"{' and '.join(_CLIPS)} give pooled text": (sum(c.pooled_dim for c in clips), pooled),
    }
    for what, (found_width, allowed) in widths.items():
        if found_width != allowed:
            return f"{what} of width {found_width}; allowed: {allowed}; they are not of one model"
    if (both := sum(clip.embed_dim for clip in clips)) > width:
        return f"{' and '.join(_CLIPS)} give text of width {both}; allowed: up to {width}"
    return None


def _join_texts(settings: Settings, texts: Texts, length: int) -> TextEmbeddings:
    """CLIP's side by side, padded with zeros to T5's width, then T5's, or zeros in its place."""
    clips = [texts[name] for name in _CLIPS]
    side = torch.cat([clip.prompt_embeds for clip in clips], dim=-1)
    width = int(settings["joint_attention_dim"])
    padded = torch.nn.functional.pad(side, (0, width - side.shape[-1]))
    if _T5 in texts:
        behind = texts[_T5].prompt_embeds.to(padded.device)
    else:
        behind = padded.new_zeros(len(padded), length, width)
    return TextEmbeddings(
        prompt_embeds=torch.cat([padded, behind], dim=1),
        pooled_prompt_embeds=torch.cat([clip.pooled_prompt_embeds for clip in clips], dim=-1),
    )


MMDIT_FAMILY: Final = DenoiserFamily(
    part="transformer",
    decisions=_DECISIONS,
    conditions=_conditions,
    text_classes={**dict.fromkeys(_CLIPS, PROJECTED_CLASS), _T5: T5_CLASS},
    text_fault=_text_fault,
    join_texts=_join_texts,
    joins_side_by_side=False,
    out_channels=16,
    pipeline="StableDiffusion3Pipeline",
)
