"""What a scorer is: a batch of stored images in, columns of scores out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from pipelines.steps.score.text_detector import Pixels, TextDetector, Writing
from sd_core.model.clip import Clip
from sd_core.model.config import ModelConfig
from sd_core.model.resample import CropGrid, OriginalSize
from sd_core.model.weights import WeightsNeed


@dataclass(frozen=True)
class Scores:
    """Values on the worker's device, (B,) or (B, width); those of all scorers are
    waited for once. `is_null` says of which images there are none."""

    values: Tensor
    is_null: Sequence[bool] | None = None


Values: TypeAlias = npt.NDArray[Any] | pa.Array
"""B elements on the CPU, or one for each row; an array of (B, width) fills a column of lists. NaN
drops the row as `score_not_finite`, null says that the image has no such score."""


@dataclass(frozen=True, kw_only=True)
class ScoreBatch:
    """B images of one size; the last ones may only fill it up.

    Attributes:
        images: (B, 3, H, W) uint8 RGB; the stored crops.
        captions: B of them, null where there is none.
        clip: The `score.clip` of the configuration; None where no scorer reads it.
        originals: Sizes of the B originals, so that embeddings are those of the originals.
        grid: What follows from them, where it was made ahead.
        texts: (B, embed_dim), the captions' embeddings where they were made ahead.
        detector: Finds text; None where no scorer reads it.
        num_rows: How many of the images are a row's; of the others no value is taken.
    """

    images: Tensor
    captions: Sequence[str | None]
    clip: Clip | None
    device: torch.device
    originals: Sequence[OriginalSize] | None = None
    grid: CropGrid | None = None
    texts: Tensor | None = None
    detector: TextDetector | None = None
    num_rows: int | None = None

    @cached_property
    def pictures(self) -> list[Pixels]:
        """(H, W, 3) of each row, on the CPU, for what takes them one by one."""
        return list(self.images[: self.num_rows].permute(0, 2, 3, 1).contiguous().cpu().numpy())

    @cached_property
    def writing(self) -> list[Writing]:
        """The lines of writing in each of `pictures`: found once for all scorers that ask."""
        if self.detector is None:
            raise RuntimeError("a scorer reads text without saying so (`reads_text`)")
        return [self.detector.find(picture) for picture in self.pictures]

    @cached_property
    def pixels(self) -> Tensor:
        """The images on the worker's device."""
        return self.images.to(self.device)

    @cached_property
    def embeddings(self) -> Tensor:
        """(B, embed_dim) float32, L2-normalised: one CLIP forward for all scorers that ask."""
        return self.loaded_clip.encode_images(self.pixels, originals=self.originals, grid=self.grid)

    @cached_property
    def text_embeddings(self) -> Tensor:
        """(B, embed_dim) float32, L2-normalised, for scorers that say `reads_captions`; of a blank
        caption anything."""
        if self.texts is not None:
            return self.texts
        return self.loaded_clip.encode_captions([caption or "" for caption in self.captions])

    def similarity_of(self, embeddings: Tensor) -> Scores:
        """Cosine of each image's embedding and its caption's; null where there is no caption."""
        is_blank = [not (caption or "").strip() for caption in self.captions]
        return Scores((embeddings * self.text_embeddings).sum(dim=-1), is_blank)

    @property
    def loaded_clip(self) -> Clip:
        """The CLIP, for a scorer that says it reads one."""
        if self.clip is None:
            raise RuntimeError("a scorer reads CLIP without saying so (`reads_clip`)")
        return self.clip


class ScorerConfig(ModelConfig):
    """The section of a scorer under `score:`; the base of each scorer's own."""

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        return []

    def identity(self) -> dict[str, Any]:
        """The options that change a score, as plain JSON without secrets."""
        return self.model_dump(mode="json")

    def describe(self) -> str:
        """One line for people."""
        return ", ".join(f"{name} {value}" for name, value in self.identity().items()) or "on"


class Scorer(Protocol):
    """One entry of `SCORERS`, loaded on a worker.

    Attributes:
        Config: Its section of the configuration.
        columns: What it can add to the ledger, so that rules can go by it.
        reads_clip: Whether it needs `score.clip`, by the batch's embeddings or by itself.
        reads_captions: Whether it takes `text_embeddings`, which are made before the images.
        reads_text: Whether it goes by the batch's `writing`.
        config: What it was opened with; only one whose `columns_of` go by it has to say.
    """

    Config: ClassVar[type[ScorerConfig]] = ScorerConfig
    columns: ClassVar[tuple[pa.Field, ...]]
    reads_clip: ClassVar[bool] = False
    reads_captions: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False
    config: Any = None

    @classmethod
    def columns_of(cls, config: Any) -> tuple[pa.Field, ...]:
        """Of its columns, those that it makes with these options."""
        return cls.columns

    @classmethod
    def open(cls, config: Any, *, device: torch.device, clip: Clip | None, where: str) -> Self:
        """Load it on a worker; raises `WeightsError` naming the key at fault under `where`."""

    @classmethod
    def check(cls, config: Any, *, embed_dim: int | None, where: str) -> None:
        """Before any worker: refuse weights that do not go with embeddings of this length (None:
        not known), where reading them costs little; raises as `open`."""
        return

    @property
    def fields(self) -> Sequence[pa.Field]:
        """What it writes to `facts/score`: its columns, unless some are for the facts alone."""
        return self.columns_of(self.config)

    @property
    def weights_sha256(self) -> str | None:
        """Digest of the loaded weights, which may not change within a run; None: it has none."""
        return None

    def score(self, batch: ScoreBatch) -> Mapping[str, Values | Scores]:
        """The values of each of its `fields`; runs without gradients. `Scores` spare a GPU from
        waiting."""


def as_column(values: Values, kind: pa.DataType, num_rows: int) -> pa.Array:
    """The first `num_rows` of a scorer's values as a column.

    Raises:
        ValueError: there are fewer, or they are of another shape.
    """
    if len(values) < num_rows:
        raise ValueError(f"{len(values)} values for {num_rows} images")
    values = values[:num_rows]
    if isinstance(values, pa.Array):
        return values.cast(kind)
    if values.ndim == 1:
        return pa.array(values, kind)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
