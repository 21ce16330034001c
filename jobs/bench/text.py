"""Is text found where it was drawn, and only there; what becomes of the similarity without it; what
the detectors cost."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from jobs.bench.process_memory import resident_bytes
from jobs.bench.tables import megabytes, text_table
from jobs.bench.text_photographs import photographs
from jobs.bench.text_set import (
    SIDE_PX,
    TEXT_SEED,
    PlantedText,
    TextPicture,
    drawn_pictures,
    find_chinese_font,
    fonts_of,
)
from pipelines.steps.score.config import ScoreConfig
from pipelines.steps.score.score import ScoreModels, load_score_models, score_batch
from pipelines.steps.score.scorer import ScoreBatch
from pipelines.steps.score.text_detector import Boxes, text_mask
from sd_core.model.transfer import Transfers
from sd_core.say import Say

_BATCH_SIZE = 16
_FOUND_SHARE = 0.5  # of a text's area that the boxes cover
READABLE_PX = 20
_LEAST_FOUND, _MOST_FALSE, _MOST_POINTS, _MOST_CHANGE = 0.95, 0.03, 2.0, 0.02
_MOST_BYTES = 700_000_000
_SCORED = {
    "clip": {"name": "preset:tiny/clip", "without_text": True},
    "text": {"read": True, "caption_is_text": True},
    "open_nsfw": True,
    "batch_size": _BATCH_SIZE,
}


@dataclass(frozen=True, kw_only=True)
class TextBench:
    """How many pictures are drawn, and from which seed on; the photographs; a font."""

    pictures: int
    photos: Path
    chinese_font: Path | None = None
    seed: int = TEXT_SEED


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One picture and what was found.

    Attributes:
        found_share: Of its planted text, the share that boxes cover.
        area: `text_area`, a share of the picture.
        change: Of the similarity with its caption, once the text is gone.
    """

    planted: PlantedText | None
    is_drawn: bool
    is_only_text: bool
    has_writing: bool
    num_boxes: int
    found_share: float
    area: float
    change: float

    @property
    def is_found(self) -> bool:
        return self.found_share >= _FOUND_SHARE


@dataclass(frozen=True, kw_only=True)
class TextFindings:
    """Shares are 0 to 1; points are hundredths of a picture.

    Attributes:
        found: By script and size in pixels: how many there are, the share found, the mean error of
            `text_area` in points.
        recall: Share found of 20 px and more.
        false_alarms: By kind of picture, of those without any text: the share in which some is.
        only_text_falls: Share of the pictures that are nothing but their caption's letters whose
            similarity falls; `only_text_change` is the mean change.
        others_change: Mean change of the other drawn ones, without its sign; `others_within` the
            share within 0.02.
        per_second: Pictures a second and core, by scorer.
        memory_bytes: The process's peak above what its imports and CLIP took.
    """

    found: dict[str, tuple[int, float, float]]
    recall: float
    false_alarms: dict[str, float]
    area_error_points: float
    only_text_falls: float
    only_text_change: float
    others_change: float
    others_within: float
    per_second: dict[str, float]
    memory_bytes: int
    clip: str = "preset:tiny/clip"

    @property
    def is_good_enough(self) -> bool:
        """Whether what was promised holds."""
        return (
            self.recall >= _LEAST_FOUND
            and max(self.false_alarms.values()) <= _MOST_FALSE
            and self.area_error_points <= _MOST_POINTS
            and self.only_text_change < 0
            and self.others_change <= _MOST_CHANGE
            and self.memory_bytes <= _MOST_BYTES
        )


def measure_text(bench: TextBench, *, say: Say) -> TextFindings:
    """Score all pictures with every detector, on one thread.

    Raises:
        FileNotFoundError: no photographs.
        InputError: no font with Chinese letters; the extra `detectors` is not installed.
    """
    torch.set_num_threads(1)
    fonts = fonts_of(find_chinese_font(bench.chinese_font))
    config = ScoreConfig.model_validate_json(json.dumps(_SCORED))
    config.check_weights("score")
    import onnxruntime  # noqa: F401
    import open_clip  # noqa: F401
    import rapidocr.ch_ppocr_det  # noqa: F401

    imported = resident_bytes(os.getpid())
    models = load_score_models(config, device="cpu")
    pictures = chain(
        drawn_pictures(bench.pictures, fonts=fonts, seed=bench.seed),
        photographs(bench.photos, fonts=fonts, seed=bench.seed),
    )
    seconds: defaultdict[str, float] = defaultdict(float)
    seen: list[Seen] = []
    while batch := [*islice(pictures, _BATCH_SIZE)]:
        seen += _score(models, batch, seconds)
        if len(seen) % (10 * _BATCH_SIZE) == 0:
            say(f"{len(seen):,} pictures")
    return _findings(
        seen,
        per_second={name: len(seen) / taken for name, taken in seconds.items()},
        memory_bytes=resident_bytes(os.getpid(), peak=True) - imported,
    )


def _score(
    models: ScoreModels, pictures: Sequence[TextPicture], seconds: defaultdict[str, float]
) -> list[Seen]:
    """What the scorers give for a batch; the CPU seconds of each are added."""
    images = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
    batch = ScoreBatch(
        images=images.permute(0, 3, 1, 2),
        captions=[picture.caption for picture in pictures],
        originals=None,
        clip=models.clip,
        device=models.device,
        detector=models.detector,
    )
    values: dict[str, Any] = {}
    for name in sorted(models.scorers, key="text".__ne__):  # text first: it is looked for once
        begin = time.process_time()
        one = replace(models, scorers={name: models.scorers[name]})
        values |= score_batch(one, batch, Transfers(models.device)).take()
        seconds[name] += time.process_time() - begin
    with_text, before = values["clip_similarity_without_text"], values["clip_similarity"]
    return [
        Seen(
            planted=picture.planted,
            is_drawn=picture.is_drawn,
            is_only_text=picture.is_only_text,
            has_writing=picture.has_writing,
            num_boxes=len(found.boxes),
            found_share=_found_share(picture.planted, found.boxes),
            area=float(area),
            change=float(after.as_py() or 0) - float(first.as_py() or 0),
        )
        for picture, found, area, first, after in zip(
            pictures, batch.writing, values["text_area"], before, with_text, strict=True
        )
    ]


def _found_share(planted: PlantedText | None, found: Boxes) -> float:
    if planted is None:
        return 0.0
    mask = text_mask(found, (SIDE_PX, SIDE_PX))
    covered = sum(
        int(mask[top:bottom, left:right].sum()) for left, top, right, bottom in planted.boxes
    )
    return covered / (planted.area * SIDE_PX**2)


def _findings(
    seen: Sequence[Seen], *, per_second: Mapping[str, float], memory_bytes: int
) -> TextFindings:
    groups: defaultdict[str, list[Seen]] = defaultdict(list)
    for each in seen:
        if each.planted is not None:
            groups[f"{each.planted.script} {each.planted.size_px:2d} px"].append(each)
    planted = [each for group in groups.values() for each in group]
    readable = [s for s in planted if s.planted and s.planted.size_px >= READABLE_PX]
    empty = [each for each in seen if each.planted is None and not each.has_writing]
    only = [each.change for each in seen if each.is_only_text]
    others = [abs(each.change) for each in seen if each.is_drawn and not each.is_only_text]
    return TextFindings(
        found={
            name: (len(group), _share(each.is_found for each in group), _points(group))
            for name, group in sorted(groups.items())
        },
        recall=_share(each.is_found for each in readable),
        false_alarms={
            kind: _share(each.num_boxes > 0 for each in empty if each.is_drawn == is_drawn)
            for kind, is_drawn in (("drawn", True), ("photographs", False))
        },
        area_error_points=_points([each for each in seen if not each.has_writing]),
        only_text_falls=_share(change < 0 for change in only),
        only_text_change=_mean(only),
        others_change=_mean(others),
        others_within=_share(change <= _MOST_CHANGE for change in others),
        per_second=dict(per_second),
        memory_bytes=memory_bytes,
    )


def _points(seen: Sequence[Seen]) -> float:
    """The mean error of `text_area`; where there was writing before, nobody knows the truth."""
    return _mean(
        100 * abs(each.area - (each.planted.area if each.planted else 0.0))
        for each in seen
        if not each.has_writing
    )


def _share(held: Iterable[bool]) -> float:
    return _mean(map(float, held))


def _mean(values: Iterable[float]) -> float:
    listed = [*values]
    return fmean(listed) if listed else 0.0


def text_findings_table(findings: TextFindings) -> str:
    """By script and size, then what was promised."""
    rows = [
        [name, str(count), f"{found:.1%}", f"{points:.2f}"]
        for name, (count, found, points) in findings.found.items()
    ]
    table = text_table(["drawn text", "pictures", "found", "text_area off, points"], rows)
    alarms = ", ".join(f"{kind} {share:.1%}" for kind, share in findings.false_alarms.items())
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in findings.per_second.items())
    lines = [
        f"found of {READABLE_PX} px and more: {findings.recall:.1%} (at least {_LEAST_FOUND:.0%})",
        f"found where there is none: {alarms} (at most {_MOST_FALSE:.0%})",
        f"text_area is off by {findings.area_error_points:.2f} points (at most {_MOST_POINTS:g})",
        f"without the text, by {findings.clip}: similarity of pictures that are only their "
        f"caption's letters changes by {findings.only_text_change:+.3f}, and falls in "
        f"{findings.only_text_falls:.0%}; of the others by {findings.others_change:.3f} without "
        f"its sign (at most {_MOST_CHANGE:g}), within that in {findings.others_within:.0%}",
        f"pictures of {SIDE_PX} px a second of one core: {rates}",
        f"memory above the imports: {megabytes(findings.memory_bytes)} MB (at most "
        f"{megabytes(_MOST_BYTES)})",
    ]
    return "\n".join([table, *lines])
