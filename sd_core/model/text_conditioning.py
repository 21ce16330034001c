"""Captions, or the token ids that a cache holds, to a denoiser's conditioning.

Source: Rombach et al. 2022, arXiv:2112.10752; XL's pooled text and time ids: Podell et al. 2023,
section 2.2, arXiv:2307.01952.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sd_core.model.conditioning import Conditioning
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.text_encoder import embed_token_ids, tokenize_captions


def encode_conditioning(
    model: LatentDiffusion, captions: Sequence[str], *, time_ids: Tensor | None = None
) -> Conditioning:
    """Encode captions with the model's text encoder, of XL with both.

    Args:
        model: Its text encoders run in their own dtype.
        captions: B of them; the empty one is encoded like any other.
        time_ids: (B, 6), of XL: see `size_time_ids`.

    Returns:
        float32 on the text encoder's device.

    Raises:
        ValueError: a model of XL without time ids.
    """
    return _condition(model, tokenize_captions(model.text_encoder, captions), time_ids)


def encode_unconditional(
    model: LatentDiffusion, texts: Sequence[str], *, time_ids: Tensor | None = None
) -> Conditioning:
    """Encode texts to guide away from; an empty one as the model's folder has it.

    Args:
        model: Of XL, it says whether an empty text is zeros (`force_zeros_for_empty_prompt`).
        texts: B of them, most of them empty.
        time_ids: (B, 6), of XL.
    """
    encoded = encode_conditioning(model, texts, time_ids=time_ids)
    if not model.zeros_for_empty_prompt:
        return encoded
    is_empty = torch.tensor([not text for text in texts], device=encoded.prompt_embeds.device)
    return without_text(encoded, is_empty)


def without_text(encoded: Conditioning, rows: Tensor) -> Conditioning:
    """The same with zeros for the text of the rows where (B,) bool is true."""
    pooled = encoded.pooled_prompt_embeds
    return replace(
        encoded,
        prompt_embeds=encoded.prompt_embeds.masked_fill(rows[:, None, None], 0.0),
        pooled_prompt_embeds=None if pooled is None else pooled.masked_fill(rows[:, None], 0.0),
    )


def encode_conditioning_of_ids(
    model: LatentDiffusion, input_ids: Tensor, *, time_ids: Tensor | None = None
) -> Conditioning:
    """Encode (B, L) token ids of the (first) text encoder's tokenizer, such as a cache holds."""
    return _condition(model, input_ids, time_ids)


def size_time_ids(count: int, *, height_px: int, width_px: int) -> Tensor:
    """(count, 6) float32 time ids of images made at one size and not cropped."""
    row = [height_px, width_px, 0, 0, height_px, width_px]
    return torch.tensor([row] * count, dtype=torch.float32)


def _condition(model: LatentDiffusion, input_ids: Tensor, time_ids: Tensor | None) -> Conditioning:
    first, second = model.text_encoder, model.text_encoder_2
    embedded = embed_token_ids(first, input_ids)
    if second is None:
        return Conditioning(prompt_embeds=embedded.prompt_embeds)
    if time_ids is None:
        raise ValueError("this model is conditioned like XL: give time_ids (see size_time_ids)")
    eos = int(first.tokenizer.eos_token_id)
    padded = _pad_with(input_ids, eos=eos, pad=second.pad_token_id)
    embedded_2 = embed_token_ids(second, padded)
    return Conditioning(
        prompt_embeds=torch.cat([embedded.prompt_embeds, embedded_2.prompt_embeds], dim=-1),
        pooled_prompt_embeds=embedded_2.pooled_prompt_embeds,
        time_ids=time_ids.to(first.device),
    )


def _pad_with(input_ids: Tensor, *, eos: int, pad: int) -> Tensor:
    """The same ids with everything after the first EOS replaced."""
    is_eos = input_ids == eos
    is_after = (is_eos.cumsum(dim=-1) - is_eos.int()) > 0
    return torch.where(is_after, pad, input_ids)
