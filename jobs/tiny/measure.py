"""Measure the tiny models on held-out pictures: `python -m jobs.tiny.measure`.

Thresholds are chosen on calibration pictures below FIRST_HELD_OUT_SEED; recall, share kept and
PSNR are measured on held-out ones, delivered at 64 to 160 pixels through JPEG of quality 90.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from jobs.tiny.deliveries import deliver
from jobs.tiny.drawing import FIRST_HELD_OUT_SEED, FLAWS, Flaw, PictureSpec, plan_pictures
from jobs.tiny.embedding import embed_images, embed_texts
from jobs.tiny.loading import (
    TINY,
    TinyClip,
    load_aesthetic_head,
    load_tiny_autoencoder,
    load_tiny_clip,
)
from jobs.tiny.train_autoencoder import draw_images, psnr

FIRST_CALIBRATION_SEED = 2_000_000


@dataclass(frozen=True)
class Scores:
    """Scores of n pictures, float64 (n,), and their flaws."""

    aesthetic: npt.NDArray[np.float64]
    similarity: npt.NDArray[np.float64]
    flaws: list[Flaw | None]


@dataclass(frozen=True)
class Thresholds:
    """A picture is dropped when either score is under its threshold."""

    aesthetic_v1: float
    clip_similarity: float


@dataclass(frozen=True)
class Verdict:
    """Shares, 0 to 1: of each flaw's pictures caught, of all flawed caught, of good ones kept."""

    caught_by_flaw: dict[str, float]
    caught: float
    kept: float


def score(specs: list[PictureSpec], clip: TinyClip, head: torch.nn.Linear) -> Scores:
    """Deliver the pictures of `specs` and score them: aesthetic score and cosine to the caption."""
    data = deliver(specs)
    images = embed_images(clip.model, data.images)
    texts = embed_texts(clip.model, clip.tokenizer(data.captions))
    with torch.inference_mode():
        aesthetic = head(images)[:, 0]
    similarity = (images * texts).sum(dim=-1)
    return Scores(aesthetic.double().numpy(), similarity.double().numpy(), data.flaws)


def recommend(scores: Scores) -> Thresholds:
    """An aesthetic score that keeps 98% of the good; the similarity with the fewest mistakes."""
    good = np.array([flaw is None for flaw in scores.flaws])
    mismatched = np.array([flaw == "wrong_caption" for flaw in scores.flaws])
    return Thresholds(
        aesthetic_v1=round(float(np.quantile(scores.aesthetic[good], 0.02)), 1),
        clip_similarity=round(_best_cut(scores.similarity[good], scores.similarity[mismatched]), 2),
    )


def judge(scores: Scores, thresholds: Thresholds) -> Verdict:
    """Apply the thresholds to the scores."""
    dropped = (scores.aesthetic < thresholds.aesthetic_v1) | (
        scores.similarity < thresholds.clip_similarity
    )
    by_flaw: dict[str, float] = {
        flaw: float(dropped[[other == flaw for other in scores.flaws]].mean()) for flaw in FLAWS
    }
    flawed = np.array([flaw is not None for flaw in scores.flaws])
    return Verdict(by_flaw, float(dropped[flawed].mean()), float(1 - dropped[~flawed].mean()))


def _best_cut(good: npt.NDArray[np.float64], bad: npt.NDArray[np.float64]) -> float:
    low, high = float(bad.min()), float(good.max())
    cuts = np.linspace(low, high, 2001)
    mistakes = np.array([(good < cut).mean() + (bad >= cut).mean() for cut in cuts])
    best = cuts[mistakes <= mistakes.min() + 1e-9]
    return float((best[0] + best[-1]) / 2)


def main() -> None:
    """Parse the command line, measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=TINY)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clip = load_tiny_clip(options.folder / "clip")
    head = load_aesthetic_head(options.folder / "aesthetic.safetensors")
    share = {"flawed_share": 0.5}
    calibration = score(
        plan_pictures(FIRST_CALIBRATION_SEED, options.pictures, **share), clip, head
    )
    thresholds = recommend(calibration)
    held_out = score(plan_pictures(FIRST_HELD_OUT_SEED, options.pictures, **share), clip, head)
    autoencoder = load_tiny_autoencoder(options.folder / "autoencoder")
    report = {
        "thresholds": asdict(thresholds),
        "held_out": asdict(judge(held_out, thresholds)),
        "psnr_64": psnr(autoencoder, draw_images(FIRST_HELD_OUT_SEED, 256)),
        "psnr_128": psnr(autoencoder, draw_images(FIRST_HELD_OUT_SEED, 32, width=128, height=128)),
        "weight_bytes": sum(
            path.stat().st_size for path in options.folder.rglob("*") if path.is_file()
        ),
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
