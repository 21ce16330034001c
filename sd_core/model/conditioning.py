"""What a denoiser is told about the image that it makes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sd_core.model.memory import to_device


@dataclass(frozen=True, kw_only=True)
class TextEmbeddings:
    """What a text encoder says of B captions.

    Args:
        prompt_embeds: (B, L, D) float32: of CLIP the last hidden state after the final LayerNorm,
            or the penultimate one without it, where the encoder says so; of T5 the last one.
        pooled_prompt_embeds: (B, P) float32: of CLIP the last state's row at EOS, projected where
            the encoder has a projection; of T5 P is 0.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What a batch of B images is to be: its text, and of some denoisers images to go by.

    Args:
        prompt_embeds: (B, L, D) float, per token; several encoders' as the denoiser's family joins
            them: of XL side by side, of Stable Diffusion 3 T5's behind CLIP's.
        pooled_prompt_embeds: (B, P) float, of XL and Stable Diffusion 3: projected rows at EOS.
        time_ids: (B, 6) float, of XL: original height and width, top and left of the crop, target
            height and width, in pixels; of its refiner (B, 5): an aesthetic score, not the target.
        image_channels: (B, K, h, w) float, of an inpainting or upscaling denoiser: what it sees
            beside the noisy latents at every step.
        class_labels: (B,) int64, of an upscaling denoiser: the noise level of its images.
        guidance_embedding: (B, W) float, of a denoiser that was distilled of a guided one: the
            scale of guidance, of `embed_guidance_scale`.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None = None
    time_ids: Tensor | None = None
    image_channels: Tensor | None = None
    class_labels: Tensor | None = None
    guidance_embedding: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def to(
        self, device: str | torch.device | None = None, *, dtype: torch.dtype | None = None
    ) -> "Conditioning":
        """The same on another device or in another dtype (None: unchanged)."""
        moved = self if device is None else self._each(lambda tensor: to_device(tensor, device))
        cast = moved._each(lambda tensor: tensor.to(dtype=dtype))
        # Sizes and labels are numbers, which another dtype would round.
        return replace(cast, time_ids=moved.time_ids, class_labels=moved.class_labels)

    def rows(self, picks: Tensor) -> "Conditioning":
        """The rows at (N,) int64 places, in their order."""
        return self._each(lambda tensor: tensor[picks.to(tensor.device)])

    def expand(self, count: int) -> "Conditioning":
        """One row, such as the empty caption's, for `count` images; a view.

        Raises:
            ValueError: there is more than one row.
        """
        if len(self) != 1:
            raise ValueError(f"a conditioning of {len(self)} rows cannot be expanded; only of one")
        return self._each(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        changed: dict[str, Any] = {
            name: change(tensor) for name, tensor in vars(self).items() if tensor is not None
        }
        return replace(self, **changed)


def concatenate_conditionings(parts: Sequence[Conditioning]) -> Conditioning:
    """All rows of the parts in order, for one call of the denoiser with and without text.

    Raises:
        ValueError: there are no parts, or only some of them have a field.
    """
    if not parts:
        raise ValueError("no conditionings to concatenate; at least one is needed")
    joined: dict[str, Any] = {
        name: _concatenate([getattr(part, name) for part in parts], name) for name in vars(parts[0])
    }
    return Conditioning(**joined)


def _concatenate(tensors: list[Tensor | None], name: str) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    if present and len(present) < len(tensors):
        raise ValueError(f"{len(present)} of {len(tensors)} conditionings have {name}; all or none")
    return torch.cat(present) if present else None
