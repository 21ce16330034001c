"""Which rows count as the same picture, and which of them stays."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.config import Config
from pipelines.rules.ranked_rules import Prefer

Method = Literal["url", "sha256", "phash", "embedding"]
ReferenceMethod = Literal["sha256", "phash", "embedding"]
MAX_PHASH_DISTANCE = 11


class ReferenceConfig(Config):
    """Pictures that must not be in the set again: an evaluation set, or an earlier run."""

    path: str = Field(min_length=1)
    """The folder of a run of ours (its kept rows), or a Parquet file with the columns asked for and
    perhaps `key`."""
    by: tuple[ReferenceMethod, ...] = Field(default=("sha256",), min_length=1)
    """How a picture is known again: by its bytes, its perceptual hash, its embedding."""


class DuplicatesConfig(Config):
    """Looked for among the rows that passed every rule; of each group one stays."""

    by: tuple[Method, ...] = ("sha256",)
    """In this order, each among the rows that the one before left."""
    keep: str | None = None
    """The row that stays is the best by this column of numbers (null is the worst), then the first
    in plan order; by default the first."""
    prefer: Prefer = "highest"
    """Which end of the column `keep` is the best."""
    phash_distance: int = Field(default=4, ge=0, le=MAX_PHASH_DISTANCE)
    """Perceptual hashes that differ in at most so many of their 64 bits are of one picture. Unit:
    bits."""
    phash_needs_similarity: float | None = Field(default=None, ge=-1.0, le=1.0)
    """If set, only where the cosine of the embeddings is at least this too."""
    embedding_similarity: float = Field(default=0.97, gt=0.0, le=1.0)
    """Embeddings of at least this cosine are of one picture."""
    references: tuple[ReferenceConfig, ...] = ()
    """Sets whose pictures are dropped where they are found in this run."""

    @model_validator(mode="after")
    def _no_method_twice(self) -> Self:
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"by: {', '.join(self.by)} names one of them twice")
        return self

    @property
    def needs_embeddings(self) -> bool:
        """Whether the run must have its images' embeddings."""
        asked = {*self.by, *(method for reference in self.references for method in reference.by)}
        return "embedding" in asked or (
            "phash" in asked and self.phash_needs_similarity is not None
        )
