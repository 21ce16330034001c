"""What the CPU does for each image that a model takes, and how many cores a GPU's goal needs.

Milliseconds of one core's time, at 512 px, with one thread; `before` is the way of the version
before batches were prepared ahead, of which a small copy is kept here.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from jobs.bench.crop_case import CropCase, make_crops
from jobs.bench.tables import text_table
from jobs.bench.train_cache import write_random_cache
from pipelines.rows.image_facts import ImageFactsConfig, measure_image
from pipelines.run.checked import open_checked
from pipelines.run.images import StoredImage, decode_crop, iterate_encoded, stack_pixels
from pipelines.steps.generate.config import ImageFileConfig
from pipelines.steps.generate.image_files import encode_image
from sd_core.cache.dataset import TrainingDataset
from sd_core.model.clip_tokenizer import clip_vocabulary_tokenizer
from sd_core.model.resample import OriginalSize, crop_grid
from sd_core.say import Say
from sd_core.sealed import sha256_of_bytes
from sd_core.training.batches import collate
from sd_core.training.objectives import ObjectiveConfig

_SIDE, _SIZE, _BATCH = 512, 224, 32
_CORES_A_GPU: Final = 12
_GOALS: Final[Mapping[str, tuple[int, Sequence[str]]]] = {
    "score": (4_000, ("tar", "decode", "stack", "tokenize", "resample")),
    "encode": (900, ("tar", "decode", "stack", "tokenize")),
    "train": (328, ("collate",)),
    "generate": (60, ("png",)),
}


@dataclass(frozen=True, kw_only=True)
class FeedPart:
    """One part's milliseconds of CPU an image; `before` is None where nothing changed."""

    part: str
    before_ms: float | None
    after_ms: float


@dataclass(frozen=True, kw_only=True)
class FeedGoal:
    """What one GPU is to be fed with, and the cores that takes."""

    step: str
    per_second: int
    before_cores: float
    cores: float

    @property
    def is_good_enough(self) -> bool:
        """Whether a node with twelve cores a GPU does it."""
        return self.cores <= _CORES_A_GPU


def measure_feed(
    num_images: int, *, photos: Path, metadata: Path, say: Say
) -> tuple[list[FeedPart], list[FeedGoal]]:
    """Measure each part on so many crops, the fastest of three; then what the goals need."""
    with tempfile.TemporaryDirectory(prefix="bench-feed-") as name, _one_thread():
        case = make_crops(
            Path(name), photos=photos, metadata=metadata, num_images=num_images, side=_SIDE
        )
        parts = []
        for part, (before, after) in _ways(case, Path(name)).items():
            found = FeedPart(
                part=part,
                before_ms=None if before is None else _milliseconds(before, num_images),
                after_ms=_milliseconds(after, num_images),
            )
            say(f"{part}: {found.after_ms:.2f} ms an image")
            parts.append(found)
    return parts, [_goal(step, parts) for step in _GOALS]


def feed_table(parts: Sequence[FeedPart], goals: Sequence[FeedGoal]) -> str:
    """The parts, then the goals."""
    rows = [
        [
            one.part,
            "as now" if one.before_ms is None else f"{one.before_ms:.3f}",
            f"{one.after_ms:.3f}",
            f"{1e3 / one.after_ms:,.0f}",
        ]
        for one in parts
    ]
    needs = [
        [
            f"{one.step}, {one.per_second:,}/s",
            f"{one.before_cores:.1f}",
            f"{one.cores:.1f}",
            f"{one.cores / one.before_cores:.2f}",
            f"{one.cores / _CORES_A_GPU:.0%}",
        ]
        for one in goals
    ]
    head = ["a GPU's goal", "cores before", "cores", "ratio", f"of {_CORES_A_GPU} a GPU"]
    return "\n\n".join(
        [
            text_table(["part", "before, ms", "ms an image", "images/s a core"], rows),
            text_table(head, needs),
        ]
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _goal(step: str, parts: Sequence[FeedPart]) -> FeedGoal:
    per_second, names = _GOALS[step]
    used = [one for one in parts if one.part in names]
    before = sum(one.after_ms if one.before_ms is None else one.before_ms for one in used)
    return FeedGoal(
        step=step,
        per_second=per_second,
        before_cores=before * per_second / 1e3,
        cores=sum(one.after_ms for one in used) * per_second / 1e3,
    )


def _milliseconds(work: Callable[[], object], num_images: int) -> float:
    best = float("inf")
    for _ in range(3):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best / num_images * 1e3


_Way = Callable[[], object]


def _ways(case: CropCase, folder: Path) -> dict[str, tuple[_Way | None, _Way]]:
    """Of each part the way before, where it was another, and that of now, over all images."""
    encoded = list(_tar(case))
    pixels = [decode_crop(content, key) for key, content in encoded]
    images = [StoredImage(facts={"key": key}, pixels=one)
              for (key, _), one in zip(encoded, pixels, strict=True)]  # fmt: skip
    facts = case.images.table(0, "facts/download")
    assert facts is not None
    rows = facts.to_pylist()
    sizes = [OriginalSize(row["original_width"], row["original_height"]) for row in rows]
    tokenizer = clip_vocabulary_tokenizer(pad_token_id=49407)
    memory = np.empty((_BATCH, _SIDE, _SIDE, 3), np.uint8)
    file, measured = ImageFileConfig(), ImageFactsConfig()

    def tokenize() -> None:
        for at in range(0, len(images), _BATCH):
            texts = list(case.captions[at : at + _BATCH])
            tokenizer(texts, padding="max_length", truncation=True, max_length=77)

    def stack() -> None:
        for part in _parts(images):
            stack_pixels(part, out=memory, where="")

    def png() -> None:
        for one in pixels:
            sha256_of_bytes(encode_image(one, file, parameters="a caption"))
            measure_image(one, measured)

    return {
        "tar": (None, lambda: list(_tar(case))),
        "decode": (None, lambda: [decode_crop(content, key) for key, content in encoded]),
        "stack": (
            lambda: [_stacked_before(part) for part in _parts(pixels)],
            stack,
        ),
        "tokenize": (None, tokenize),
        "resample": (
            lambda: [_matrices_before(size) for size in sizes],
            lambda: [crop_grid(part, side=_SIDE, size=_SIZE) for part in _parts(sizes)],
        ),
        "collate": (None, _collating(folder / "cache", len(images))),
        "png": (None, png),
    }


def _parts(of: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(of), _BATCH):
        yield of[at : at + _BATCH]


def _tar(case: CropCase) -> Iterator[tuple[str, bytes]]:
    """Held against its digest, then read."""
    entry = case.images.file(0, "images")
    assert entry is not None
    with open_checked(case.store, entry) as stream:
        yield from iterate_encoded(stream, entry)


def _collating(folder: Path, rows: int) -> _Way:
    folder.mkdir()
    cache = write_random_cache(folder, rows=max(rows, 2 * _BATCH))
    batches = TrainingDataset([cache], weights=[1.0], seed=0).batches(batch_size=_BATCH)
    next(batches)  # opens the shards

    def run() -> None:
        for _ in range(max(1, rows // _BATCH)):
            collate(next(batches), [cache], seed=0, objective=ObjectiveConfig())

    return run


def _stacked_before(pixels: Sequence[Any]) -> Any:
    stacked = np.zeros((_BATCH, _SIDE, _SIDE, 3), np.uint8)
    for slot, one in zip(stacked, pixels, strict=False):
        slot[...] = one
    return stacked


def _matrices_before(size: OriginalSize) -> list[Tensor]:
    """Every pixel of the crop weighed for each of the result, image by image."""
    short, found = min(size.width, size.height), []
    for length in (size.width, size.height):
        resized = int(_SIZE * length / short)
        step = length / resized * _SIDE / short
        first = round((resized - _SIZE) / 2)
        start = (first * length / resized - (length - short) / 2) * _SIDE / short
        centres = start + (torch.arange(_SIZE, dtype=torch.float64)[:, None] + 0.5) * step
        x = ((torch.arange(_SIDE, dtype=torch.float64)[None] + 0.5 - centres) / max(step, 1)).abs()
        near = (1.5 * x - 2.5) * x * x + 1
        far = -0.5 * (((x - 5) * x + 8) * x - 4)
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
        found.append((weights / weights.sum(dim=1, keepdim=True)).float())
    return found
