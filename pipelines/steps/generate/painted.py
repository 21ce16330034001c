"""Batches on their way from rows to pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pipelines.steps.generate.batches import BatchSettings
from pipelines.steps.generate.init_images import InitImage
from pipelines.steps.generate.rows import ImageRow
from pipelines.steps.generate.text_cache import EncodedText


@dataclass(frozen=True, kw_only=True)
class PreparedBatch:
    """Rows with their texts."""

    settings: BatchSettings
    rows: Sequence[ImageRow]
    prompts: Sequence[EncodedText]
    negatives: Sequence[EncodedText]
    sources: Sequence[InitImage] | None = None
    """The images that the rows start from."""
    pictures: Sequence[Tensor] | None = None
    """Of a model of upscaling: (3, h, w) float32 in [-1, 1]."""
    refined: Sequence[EncodedText] | None = None
    """The prompts as a refiner reads them."""
    refined_negatives: Sequence[EncodedText] | None = None

    def part(self, picks: Sequence[int]) -> "PreparedBatch":
        if len(picks) == len(self.rows):
            return self
        own = {name: values for name, values in vars(self).items() if name != "settings"}
        taken: dict[str, Any] = {
            name: [values[at] for at in picks] for name, values in own.items() if values is not None
        }
        return replace(self, **taken)


@dataclass(frozen=True, kw_only=True)
class DenoisedBatch:
    """Rows with their latents.

    Attributes:
        latents: (B, C, h, w) float32 scaled latents on the model's device.
        batch_sizes: How many rows were denoised together with each.
    """

    batch: PreparedBatch
    latents: Tensor
    batch_sizes: Sequence[int]
    ready: Any

    def part(self, picks: Sequence[int]) -> "DenoisedBatch":
        if len(picks) == len(self.batch_sizes):
            return self
        sizes = [self.batch_sizes[at] for at in picks]
        latents = self.latents[list(picks)]
        return replace(self, batch=self.batch.part(picks), latents=latents, batch_sizes=sizes)


@dataclass(frozen=True, kw_only=True)
class PaintedBatch:
    """Rows with their images, on the CPU.

    Attributes:
        images: (B, H, W, 3) uint8.
        raw_latents: (B, C, h, w) float32, unscaled.
        is_finite: (B,) bool; false where an image came to nothing.
    """

    batch: PreparedBatch
    images: Tensor
    raw_latents: Tensor
    is_finite: Sequence[bool]
    batch_sizes: Sequence[int]
