"""What a denoiser is told about the image that it makes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """The text side of a batch of B images.

    Args:
        prompt_embeds: (B, L, D) float, per token; D of XL is both encoders' side by side.
        pooled_prompt_embeds: (B, P) float, of XL: the second encoder's projected row at EOS.
        time_ids: (B, 6) float, of XL: original height and width, top and left of the crop, target
            height and width, in pixels.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None = None
    time_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def to(
        self, device: str | torch.device | None = None, *, dtype: torch.dtype | None = None
    ) -> "Conditioning":
        """The same on another device or in another dtype (None: unchanged)."""
        pooled, time_ids = self.pooled_prompt_embeds, self.time_ids
        return Conditioning(
            prompt_embeds=self.prompt_embeds.to(device=device, dtype=dtype),
            pooled_prompt_embeds=None if pooled is None else pooled.to(device=device, dtype=dtype),
            time_ids=None if time_ids is None else time_ids.to(device=device),
        )

    def expand(self, count: int) -> "Conditioning":
        """One row, such as the empty caption's, for `count` images; a view.

        Raises:
            ValueError: there is more than one row.
        """
        if len(self) != 1:
            raise ValueError(f"a conditioning of {len(self)} rows cannot be expanded; only of one")
        pooled, time_ids = self.pooled_prompt_embeds, self.time_ids
        return Conditioning(
            prompt_embeds=self.prompt_embeds.expand(count, -1, -1),
            pooled_prompt_embeds=None if pooled is None else pooled.expand(count, -1),
            time_ids=None if time_ids is None else time_ids.expand(count, -1),
        )


def concatenate_conditionings(parts: Sequence[Conditioning]) -> Conditioning:
    """All rows of the parts in order, for one call of the denoiser with and without text.

    Raises:
        ValueError: there are no parts, or only some of them have a field.
    """
    if not parts:
        raise ValueError("no conditionings to concatenate; at least one is needed")
    return Conditioning(
        prompt_embeds=torch.cat([part.prompt_embeds for part in parts]),
        pooled_prompt_embeds=_concatenate(
            [part.pooled_prompt_embeds for part in parts], "pooled_prompt_embeds"
        ),
        time_ids=_concatenate([part.time_ids for part in parts], "time_ids"),
    )


def _concatenate(tensors: list[Tensor | None], name: str) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    if present and len(present) < len(tensors):
        raise ValueError(f"{len(present)} of {len(tensors)} conditionings have {name}; all or none")
    return torch.cat(present) if present else None
