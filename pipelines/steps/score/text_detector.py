"""Lines of writing in a picture: where they stand, and what they say.

PP-OCRv6 (PaddleOCR, Apache-2.0) as rapidocr brings it: one network finds lines in any script, the
other reads Latin, Chinese and Japanese. The finder alone takes every second photograph for written
on: it finds rings, logs and whole animals. So each place is read, and stays where it is a line by
its shape and by what is read. Pictures go through one by one, so that none depends on its company,
and memory not on their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import numpy.typing as npt
import torch

from pipelines.steps.score.wheel_models import WheelModel

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3), RGB."""
Boxes = npt.NDArray[np.float32]
"""(N, 4, 2): the corners of N lines as x and y in pixels, from the upper left, in reading order."""

FINDER: Final = WheelModel("rapidocr", "models/PP-OCRv6_det_small.onnx")
READER: Final = WheelModel("rapidocr", "models/PP-OCRv6_rec_small.onnx")
MAX_TEXT_CHARS: Final = 1_000
"""After so many, no further line of a picture is read."""

_SIDE_PX = 736  # the finder sees a picture as it is, or with its longer side at this
_MULTIPLE_PX = 32
_LEAST_FOUND = 0.45  # score of a place; its makers take 0.5, and what follows is theirs
_LEAST_INK, _GROWN_BY = 0.3, 1.6
_LINE_HEIGHT_PX, _LEAST_LINE_PX, _MOST_LINE_PX = 48, 320, 3_200
_MOST_READ = 60  # places of a picture; further ones go by the finder's score

# What is a line of writing, chosen on 160 drawn pictures and the 159 photographs of `bench text`.
_MOST_HEIGHT = 0.35  # of the picture's shorter side
_LEAST_LENGTH = 1.7  # times its height; what is shorter must be read well, or is a ring or a log
_LEAST_READ, _LEAST_READ_SHORT, _LEAST_READ_SIGN = 0.65, 0.9, 0.99  # mean probability of its signs
_LEAST_UNREAD = 0.62  # the finder's score of a line in a script that the reader does not know


@dataclass(frozen=True)
class Writing:
    """The lines of a picture: their corners and what they say ("" where it cannot be read)."""

    boxes: Boxes
    lines: Sequence[str]

    @property
    def text(self) -> str:
        """What all lines say, in order."""
        return " ".join(line for line in self.lines if line)


NO_WRITING: Final = Writing(np.zeros((0, 4, 2), np.float32), ())


class TextDetector:
    """Finds and reads lines of writing; about 31 megabytes of weights.

    Attributes:
        made_with: What a run records of it.
    """

    def __init__(
        self, finder: "InferenceSession", reader: "InferenceSession", *, made_with: str
    ) -> None:
        from rapidocr.ch_ppocr_det import TextDetector as Original
        from rapidocr.ch_ppocr_det.utils import DBPostProcess
        from rapidocr.ch_ppocr_rec.utils import CTCLabelDecode
        from rapidocr.utils.process_img import get_rotate_crop_image

        self._finder, self._reader = finder, reader
        self.made_with = made_with
        self._to_places = DBPostProcess(
            thresh=_LEAST_INK, box_thresh=_LEAST_FOUND, unclip_ratio=_GROWN_BY, use_dilation=True
        )
        self._in_order = Original.sorted_boxes
        self._cut_out = get_rotate_crop_image
        signs = reader.get_modelmeta().custom_metadata_map["character"].splitlines()
        self._to_text = CTCLabelDecode(character=signs)

    @classmethod
    def open(cls, device: torch.device, where: str) -> "TextDetector":
        """Load it; `where` is the key that asks for it. Raises `MissingDetectorError`."""
        finder, reader = FINDER.open(device, where), READER.open(device, where)
        made_with = f"{FINDER.sha256(where)}, {READER.describe(device, where)}"
        return cls(finder, reader, made_with=made_with)

    def find(self, picture: Pixels) -> Writing:
        """The lines of a picture; a picture of one colour has none, and is not looked at."""
        if picture.min() == picture.max():
            return NO_WRITING
        ink = _run(self._finder, _as_input(_resized(picture)))
        places, scores = self._to_places(ink, picture.shape[:2])
        score_of = {place.tobytes(): score for place, score in zip(places, scores, strict=True)}
        boxes: list[npt.NDArray[np.float32]] = []
        lines: list[str] = []
        for number, place in enumerate(self._in_order(places)):
            is_read = number < _MOST_READ and sum(map(len, lines)) < MAX_TEXT_CHARS
            line, probability = self._read(picture, place) if is_read else ("", 0.0)
            score = score_of[place.tobytes()]
            if _is_line(place, line, probability, score=score, side=min(picture.shape[:2])):
                boxes.append(place)
                lines.append(line)
        return Writing(np.array(boxes, np.float32).reshape(-1, 4, 2), lines)

    def _read(self, picture: Pixels, place: npt.NDArray[np.float32]) -> tuple[str, float]:
        """What stands there, and how sure that is; the networks see blue first."""
        cut = np.asarray(self._cut_out(picture, place.copy()), np.uint8)
        height, width = cut.shape[:2]
        width = min(-(-_LINE_HEIGHT_PX * width // height), _MOST_LINE_PX)
        padded = np.zeros((1, 3, _LINE_HEIGHT_PX, max(_LEAST_LINE_PX, width)), np.float32)
        line = np.asarray(cv2.resize(cut, (width, _LINE_HEIGHT_PX)), np.uint8)
        padded[..., :width] = _as_input(line)
        ((text, probability),), _ = self._to_text(_run(self._reader, padded))
        return text.strip(), probability


def text_mask(boxes: Boxes, size: Sequence[int]) -> npt.NDArray[np.uint8]:
    """1 where a line is, of a picture of this height and width."""
    mask = np.zeros((size[0], size[1]), np.uint8)
    for box in boxes:
        cv2.fillPoly(mask, [np.rint(box).astype(np.int32)], 1)
    return mask


def _is_line(
    place: npt.NDArray[np.float32], line: str, probability: float, *, score: float, side: int
) -> bool:
    """Whether a place that was found has writing in it.

    Args:
        place: Four corners.
        line: What was read, with its probability.
        score: The finder's.
        side: The picture's shorter one, in pixels.
    """
    sides = np.linalg.norm(place - np.roll(place, -1, axis=0), axis=1)
    height, length = sorted((max(sides[::2]), max(sides[1::2])))
    if height > _MOST_HEIGHT * side:
        return False
    if length < _LEAST_LENGTH * height:
        return len(line) > 0 and probability >= (
            _LEAST_READ_SIGN if len(line) == 1 else _LEAST_READ_SHORT
        )
    return probability >= _LEAST_READ if line else score >= _LEAST_UNREAD


def _run(session: "InferenceSession", values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    (made,) = session.run(None, {session.get_inputs()[0].name: values})
    return np.asarray(made)


def _resized(picture: Pixels) -> Pixels:
    """To what the finder looks at: each side a multiple of 32 pixels."""
    scale = min(1.0, _SIDE_PX / max(picture.shape[:2]))
    height, width = (
        max(_MULTIPLE_PX, round(side * scale / _MULTIPLE_PX) * _MULTIPLE_PX)
        for side in picture.shape[:2]
    )
    return np.asarray(cv2.resize(picture, (width, height)), np.uint8)


def _as_input(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(1, 3, H, W) from -1 to 1, blue first."""
    blue_first = np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1)[None], np.float32)
    return blue_first / np.float32(127.5) - np.float32(1)
