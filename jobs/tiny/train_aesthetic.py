"""Fit the tiny aesthetic head: `python -m jobs.tiny.train_aesthetic`.

Logistic regression on the unit image embeddings of the tiny CLIP, which must be trained first;
scaled to a mean of 8 for pictures without a flaw of the image, 2 for blurred, noisy and faint ones.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from jobs.tiny.deliveries import deliver
from jobs.tiny.drawing import Flaw, plan_pictures
from jobs.tiny.embedding import embed_images
from jobs.tiny.loading import TINY, load_tiny_clip

LOG = logging.getLogger(__name__)
FIRST_SEED = 1_000_000  # apart from the CLIP's training pictures
GOOD, BAD = 8.0, 2.0


def is_good(flaws: list[Flaw | None]) -> torch.Tensor:
    """Which pictures have a good image, bool (n,); a wrong caption leaves the image good."""
    return torch.tensor([flaw in (None, "wrong_caption") for flaw in flaws])


def fit(embeddings: torch.Tensor, good: torch.Tensor, *, decay: float) -> nn.Linear:
    """Logistic regression, then scaled: the good ones' mean score is GOOD, the bad ones' BAD.

    Takes float32 (n, width) and bool (n,); both classes weigh alike.
    """
    inputs = embeddings.double()
    weight = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    balance = torch.where(good, 0.5 / good.sum(), 0.5 / (~good).sum()).double()
    optimizer: Any = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        wrong = functional.binary_cross_entropy_with_logits(
            inputs @ weight + bias, good.double(), weight=balance, reduction="sum"
        )
        total = wrong + decay * weight.square().sum()
        torch.autograd.backward(total)
        return total

    optimizer.step(loss)
    with torch.no_grad():
        logits = inputs @ weight + bias
        scale = (GOOD - BAD) / (logits[good].mean() - logits[~good].mean())
        shift = GOOD - scale * logits[good].mean()
        head = nn.Linear(inputs.shape[1], 1)
        head.weight.copy_(scale * weight[None])
        head.bias.copy_(scale * bias + shift)
    return head


def main() -> None:
    """Parse the command line, fit and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--decay", type=float, default=1e-6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clip", type=Path, default=TINY / "clip")
    parser.add_argument("--output", type=Path, default=TINY / "aesthetic.safetensors")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    torch.set_num_threads(options.threads)
    specs = plan_pictures(FIRST_SEED, options.pictures, flawed_share=0.6)
    data = deliver(specs, low_quality=80, high_quality=95)
    embeddings = embed_images(load_tiny_clip(options.clip).model, data.images)
    good = is_good(data.flaws)
    head = fit(embeddings, good, decay=options.decay)
    with torch.inference_mode():
        right = ((head(embeddings)[:, 0] > (GOOD + BAD) / 2) == good).float().mean()
    LOG.info("on its own %d pictures: %.2f%% on the right side", len(good), 100 * right)
    save_file(
        {"weight": head.weight.detach().clone(), "bias": head.bias.detach().clone()},
        options.output,
    )
    LOG.info("saved to %s", options.output)


if __name__ == "__main__":
    main()
