"""What one decode may cost, and what every stored image looks like."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.rows.image_facts import ImageFactsConfig

Enlarge = Literal["lanczos", "linear"]


class ImageConfig(BaseModel):
    """The stored crop, and the bounds within which an original is decoded."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )

    size: int = Field(512, ge=16, le=4096)
    """Side of the stored square."""

    format: Literal["jpg", "png", "webp"] = "jpg"
    """How the stored square is encoded; png is lossless."""

    quality: int = Field(95, ge=1, le=100)
    """Of jpg and webp; png has none and ignores it. Unit: number."""

    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"
    """Chroma subsampling of jpg; png and webp ignore it."""

    enlarge: Enlarge = "lanczos"
    """How originals smaller than `size` are resampled; `linear` sharpens nothing that is not there.
    Larger ones are always averaged by area."""

    min_side_px: int = Field(1, ge=1)
    """Originals whose shorter side is below this are dropped as `image_too_small`."""

    max_aspect: float = Field(3.0, ge=1.0)
    """Originals whose longer side is above this many shorter sides are `aspect_above_max`."""

    max_pixels: int = Field(50_000_000, ge=1, le=200_000_000)
    """Originals with more pixels in their header are `too_many_pixels`; nothing is decoded."""

    max_memory_bytes: int = Field(448 << 20, ge=64 << 20)
    """Memory one decoder process may add to what its imports take; above it, the original is
    `decode_out_of_memory`."""

    decode_timeout_s: float = Field(5.0, gt=0.0, le=300.0)
    """CPU seconds that one original may take before it is `decode_timed_out`."""

    facts: ImageFactsConfig = ImageFactsConfig()
    """What is measured on the stored square's pixels."""

    def identity(self) -> dict[str, Any]:
        """The options that change a result, as plain JSON."""
        return self.model_dump(mode="json", exclude={"facts"}) | self.facts.identity()
