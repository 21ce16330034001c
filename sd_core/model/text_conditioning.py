"""Captions, or the token ids that a cache holds, to a denoiser's conditioning.

Source: Rombach et al. 2022, arXiv:2112.10752; XL's pooled text and time ids: Podell et al. 2023,
section 2.2, arXiv:2307.01952; Stable Diffusion 3's three encoders: Esser et al. 2024, section 4,
arXiv:2403.03206.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from sd_core.model.conditioning import Conditioning, TextEmbeddings
from sd_core.model.denoiser import class_name_of, unwrap_module
from sd_core.model.denoisers import DENOISERS
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.text_encoder import EncodedCaptions, embed_token_ids, tokenize_captions

AESTHETIC_SCORE: Final = 6.0
"""What a refiner is asked for where nothing else is said; diffusers' default."""
_REFINER_IDS: Final = 5
TokenIds = Mapping[str, Tensor]
"""(B, L) int32 on the CPU, by text encoder; L is each encoder's own."""


def encode_conditioning(
    model: LatentDiffusion, captions: Sequence[str], *, time_ids: Tensor | None = None
) -> Conditioning:
    """Encode captions with all of the model's text encoders.

    Args:
        model: Its text encoders run in their own dtype.
        captions: B of them; the empty one is encoded like any other.
        time_ids: (B, 6), of XL: see `size_time_ids`.

    Returns:
        float32 on the text encoders' device.

    Raises:
        ValueError: a model of XL without time ids.
    """
    return condition_on_ids(model, token_ids(model, captions), time_ids=time_ids)


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
    """Encode (B, L) token ids of the first text encoder's tokenizer, such as a cache holds.

    Raises:
        ValueError: another encoder has a tokenizer of its own, or a model of XL without time ids.
    """
    if others := model.text_encoders.keys() - model.cached_encoders.keys():
        raise ValueError(f"the token ids of {', '.join(others)} do not follow from the first's")
    return condition_on_ids(model, _of_one_kind(model, input_ids), time_ids=time_ids)


def token_ids(model: LatentDiffusion, captions: Sequence[str]) -> TokenIds:
    """Tokenize captions for each text encoder; each cuts what is beyond its own length."""
    ids = _of_one_kind(model, tokenize_captions(model.text_encoder, captions))
    return {
        part: ids[part] if part in ids else tokenize_captions(encoder, captions)
        for part, encoder in model.text_encoders.items()
    }


def condition_on_ids(
    model: LatentDiffusion, ids: TokenIds, *, time_ids: Tensor | None = None
) -> Conditioning:
    """Encode the token ids of `token_ids`; as `encode_conditioning`."""
    texts = {
        part: embed_token_ids(encoder, ids[part]) for part, encoder in model.text_encoders.items()
    }
    return _joined(model, texts, time_ids)


def encode_cached_captions(model: LatentDiffusion, captions: Sequence[str]) -> EncodedCaptions:
    """What a cache may hold of captions: the first tokenizer's ids, and the
    embeddings of the encoders that read them, side by side, with the last one's pooled text."""
    input_ids = tokenize_captions(model.text_encoder, captions)
    ids = _of_one_kind(model, input_ids)
    texts = [embed_token_ids(one, ids[part]) for part, one in model.cached_encoders.items()]
    return EncodedCaptions(
        input_ids=input_ids,
        prompt_embeds=torch.cat([text.prompt_embeds for text in texts], dim=-1).cpu(),
        pooled_prompt_embeds=texts[-1].pooled_prompt_embeds.cpu(),
    )


def zero_conditioning(model: LatentDiffusion) -> Conditioning:
    """One row of zeros of the shapes that the denoiser takes; no encoder runs."""
    device = next(model.denoiser.parameters()).device
    texts = {
        part: TextEmbeddings(
            prompt_embeds=torch.zeros(1, one.token_length, one.embed_dim, device=device),
            pooled_prompt_embeds=torch.zeros(1, one.shape.pooled_dim, device=device),
        )
        for part, one in model.text_encoders.items()
    }
    return _joined(model, texts, native_time_ids(model, 1))


def size_time_ids(
    count: int, *, height_px: int, width_px: int, aesthetic_score: float | None = None
) -> Tensor:
    """(count, 6) float32 time ids of images made at one size and not cropped; with an aesthetic
    score those of XL's refiner, (count, 5)."""
    last = [height_px, width_px] if aesthetic_score is None else [aesthetic_score]
    return torch.tensor([[height_px, width_px, 0, 0, *last]] * count, dtype=torch.float32)


def native_time_ids(model: LatentDiffusion, count: int) -> Tensor | None:
    """XL's for images of the size that it was made for; None of a model that takes none."""
    if not (number := model.num_time_ids):
        return None
    side = model.latents_shape[1] * model.autoencoder.downsampling
    score = AESTHETIC_SCORE if number == _REFINER_IDS else None
    return size_time_ids(count, height_px=side, width_px=side, aesthetic_score=score)


def _joined(
    model: LatentDiffusion, texts: Mapping[str, TextEmbeddings], time_ids: Tensor | None
) -> Conditioning:
    number = model.num_time_ids
    if number and (time_ids is None or time_ids.shape[1] != number):
        raise ValueError(
            f"this model is conditioned like XL: give time_ids of {number} (see size_time_ids)"
        )
    settings: Any = unwrap_module(model.denoiser).config
    join = DENOISERS[class_name_of(model.denoiser)].join_texts
    joined = join(settings, texts, model.max_sequence_length)
    pooled = joined.pooled_prompt_embeds
    return Conditioning(
        prompt_embeds=joined.prompt_embeds,
        pooled_prompt_embeds=pooled if pooled.shape[1] else None,
        time_ids=time_ids.to(pooled.device) if number and time_ids is not None else None,
    )


def _of_one_kind(model: LatentDiffusion, input_ids: Tensor) -> dict[str, Tensor]:
    """The ids of the encoders that share the first's vocabulary: each pads with its own token."""
    eos = int(model.text_encoder.tokenizer.eos_token_id)
    others = list(model.cached_encoders.items())[1:]
    padded = {part: _pad_with(input_ids, eos=eos, pad=one.pad_token_id) for part, one in others}
    return {next(iter(model.text_encoders)): input_ids, **padded}


def _pad_with(input_ids: Tensor, *, eos: int, pad: int) -> Tensor:
    """The same ids with everything after the first EOS replaced."""
    is_eos = input_ids == eos
    is_after = (is_eos.cumsum(dim=-1) - is_eos.int()) > 0
    return torch.where(is_after, pad, input_ids)
