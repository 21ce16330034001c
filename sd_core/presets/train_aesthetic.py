"""Fit the tiny aesthetic head: `python -m sd_core.presets.train_aesthetic`.

Ridge regression on the tiny CLIP's unit image embeddings: 8 for pictures without a flaw of the
image, 2 for blurred, noisy and low-contrast ones. The CLIP must be trained first.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from sd_core.presets.deliveries import deliver
from sd_core.presets.drawing import Flaw, plan_pictures
from sd_core.presets.embedding import embed_images
from sd_core.presets.loading import TINY, load_clip

LOG = logging.getLogger(__name__)
FIRST_SEED = 1_000_000  # apart from the CLIP's training pictures
GOOD, BAD = 8.0, 2.0


def targets(flaws: list[Flaw | None]) -> torch.Tensor:
    """The score to learn for each picture, float32 (n,); a wrong caption leaves the image good."""
    return torch.tensor([GOOD if flaw in (None, "wrong_caption") else BAD for flaw in flaws])


def fit(embeddings: torch.Tensor, scores: torch.Tensor, *, ridge: float) -> nn.Linear:
    """Ridge regression, good and bad weighed alike: (n, width), (n,) to a linear layer."""
    good = scores > (GOOD + BAD) / 2
    weights = torch.where(good, 0.5 / good.sum(), 0.5 / (~good).sum()).double()
    inputs = torch.cat([embeddings, torch.ones(len(embeddings), 1)], dim=1).double()
    moment = inputs.T @ (weights[:, None] * inputs)
    penalty = ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
    penalty[-1, -1] = 0
    solution = torch.linalg.solve(moment + penalty, inputs.T @ (weights * scores.double()))
    head = nn.Linear(embeddings.shape[1], 1)
    head.load_state_dict({"weight": solution[None, :-1].float(), "bias": solution[-1:].float()})
    return head


def main() -> None:
    """Parse the command line, fit and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--ridge", type=float, default=1e-6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clip", type=Path, default=TINY / "clip")
    parser.add_argument("--output", type=Path, default=TINY / "aesthetic.safetensors")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    torch.set_num_threads(options.threads)
    specs = plan_pictures(FIRST_SEED, options.pictures, flawed_share=0.6)
    data = deliver(specs, low_quality=80, high_quality=95)
    embeddings = embed_images(load_clip(options.clip).model, data.images)
    scores = targets(data.flaws)
    head = fit(embeddings, scores, ridge=options.ridge)
    with torch.inference_mode():
        answered = head(embeddings)[:, 0]
    right = ((answered > (GOOD + BAD) / 2) == (scores > (GOOD + BAD) / 2)).float().mean()
    LOG.info("on its own %d pictures: %.2f%% on the right side", len(scores), 100 * right)
    save_file(
        {"weight": head.weight.detach().clone(), "bias": head.bias.detach().clone()},
        options.output,
    )
    LOG.info("saved to %s", options.output)


if __name__ == "__main__":
    main()
