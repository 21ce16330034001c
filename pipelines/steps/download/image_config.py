"""What one decode may cost, and what every stored image looks like."""

from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from pydantic import Field

from pipelines.rows.image_facts import ImageFactsConfig
from sd_core.model.buckets import Bucket, BucketsConfig
from sd_core.model.config import ModelConfig

Enlarge = Literal["lanczos", "linear"]
_KEPT_FREE_BYTES = 64 << 20
_STORED_PIXEL_BYTES = 32
_BEFORE: Final = {"max_memory_bytes": 448 << 20, "decode_timeout_s": 5.0}  # of bounds 1


class ImageConfig(ModelConfig):
    """The stored crop, and the bounds within which an original is decoded."""

    size: int = Field(512, ge=16, le=4096)
    """Side of the stored square; not used where there are `buckets`."""

    buckets: BucketsConfig | None = None
    """Instead of the square: sizes of several aspects, each picture cropped to the nearest one."""

    format: Literal["jpg", "png", "webp"] = "jpg"
    """How the stored crop is encoded; png is lossless."""

    quality: int = Field(95, ge=1, le=100)
    """Of jpg and webp; png has none and ignores it. Unit: number."""

    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"
    """Chroma subsampling of jpg; png and webp ignore it."""

    enlarge: Enlarge = "lanczos"
    """How originals smaller than their crop are resampled; `linear` sharpens nothing that is not
    there. Larger ones are always averaged by area."""

    min_side_px: int = Field(1, ge=1)
    """Originals whose shorter side is below this are dropped as `image_too_small`."""

    max_aspect: float = Field(3.0, ge=1.0)
    """Originals whose longer side is above this many shorter sides are `aspect_above_max`."""

    max_pixels: int = Field(50_000_000, ge=1, le=200_000_000)
    """Originals with more pixels in their header are `too_many_pixels`; nothing is decoded."""

    max_memory_bytes: int = Field(256 << 20, ge=64 << 20)
    """What decoding one original may take by its header and bytes, beside what the decoder's
    process holds idle and a stored square of more than 512 pixels takes; above it, it is
    `decode_out_of_memory`."""

    decode_timeout_s: float = Field(30.0, gt=0.0, le=300.0)
    """CPU seconds after which an original is `decode_timed_out`, until `--retry`: what the header
    and the bytes let pass takes about 3."""

    bounds: Literal[1, 2] = 2
    """The table by which the need of an original is judged. A run that was begun with the first
    goes on with it, unasked. Unit: number."""

    facts: ImageFactsConfig = ImageFactsConfig()
    """What is measured on the stored square's pixels."""

    @property
    def process_memory_bytes(self) -> int:
        """By how much a decoder's process may grow: what one decode may take, what the allocator
        keeps of the one before, and what a larger stored square takes."""
        if self.bounds == 1:
            return self.max_memory_bytes
        largest = max(size.width * size.height for size in self.sizes)
        return self.max_memory_bytes + _KEPT_FREE_BYTES + _STORED_PIXEL_BYTES * largest

    @property
    def sizes(self) -> tuple[Bucket, ...]:
        """Of the stored crops, from the narrowest aspect to the widest."""
        if self.buckets is None:
            return (Bucket(width=self.size, height=self.size),)
        return self.buckets.buckets()

    def of_run(self, recorded: Mapping[str, Any]) -> Self:
        """The same for a run whose download was recorded with these options of the image: bounds
        that it began with stay, also those that were defaults then."""
        if not recorded or "bounds" in recorded:
            return self
        earlier = {
            name: default for name, default in _BEFORE.items() if name not in self.model_fields_set
        }
        return self.model_copy(update={**earlier, "bounds": 1})

    def identity(self) -> dict[str, Any]:
        """The options that change a result, as plain JSON: the clock is none since the second
        table of bounds."""
        clock = {"bounds"} if self.bounds == 1 else {"decode_timeout_s"}
        unused = {"buckets"} if self.buckets is None else {"size"}
        own = self.model_dump(mode="json", exclude={"facts", *clock, *unused})
        return own | self.facts.identity()
