"""Drawn pictures as a pipeline meets them: of any size, through JPEG, resized for the model."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from jobs.tiny.drawing import Flaw, PictureSpec, Subject, caption_of, draw

SIDE = 64  # pixels, of the tiny models' input


@dataclass(frozen=True)
class Delivery:
    """Pictures after delivery: uint8 (n, SIDE, SIDE, 3), with what belongs to each."""

    images: npt.NDArray[np.uint8]
    subjects: list[Subject]
    captions: list[str]
    flaws: list[Flaw | None]


def deliver(specs: list[PictureSpec], *, low_quality: int = 90, high_quality: int = 90) -> Delivery:
    """Draw at a side of 64 to 160 pixels, encode as JPEG, decode, resize to SIDE (bicubic).

    Deterministic in its arguments; the JPEG quality is drawn from low_quality..high_quality.
    """
    images, subjects, captions = [], [], []
    for spec in specs:
        rng = np.random.default_rng([spec.seed, 2])
        side = int(rng.integers(64, 161))
        quality = int(rng.integers(low_quality, high_quality + 1))
        picture = draw(spec.seed, width=side, height=side, flaw=spec.flaw)
        images.append(_through_jpeg(picture.image, quality))
        subjects.append(
            Subject(
                picture.shape,
                picture.color,
                picture.background,
                picture.size,
                picture.position,
            )
        )
        captions.append(picture.caption)
    return Delivery(np.stack(images), subjects, captions, [spec.flaw for spec in specs])


def random_caption(subject: Subject, rng: np.random.Generator) -> str:
    """A true caption in a template of chance."""
    return caption_of(subject, template=int(rng.integers(3)))


def normalized(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (b, h, w, 3) to float32 (b, 3, h, w) in -1..1, as the CLIP's preprocessing does."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _through_jpeg(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="JPEG", quality=quality)
    decoded = Image.open(encoded).convert("RGB")
    return np.asarray(decoded.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
