"""Train the tiny autoencoder: `python -m jobs.tiny.train_autoencoder`.

An f4 autoencoder with 4 latent channels, on drawn pictures; writes diffusers' config.json (with
the scaling factor, 1 / standard deviation of the latents) and safetensors weights.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL

from jobs.tiny.drawing import FIRST_HELD_OUT_SEED, draw
from jobs.tiny.loading import TINY, load_tiny_autoencoder
from jobs.tiny.pacing import Pace

LOG = logging.getLogger(__name__)
_KL_WEIGHT = 1e-6


def build_autoencoder() -> AutoencoderKL:
    """The untrained architecture: (b, 3, h, w) in -1..1 to latents (b, 4, h/4, w/4)."""
    family: Any = AutoencoderKL
    model = family(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 16, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
    )
    with torch.no_grad():  # start with little noise on the latents: log variance about -6
        model.quant_conv.bias[4:] -= 6
    built: AutoencoderKL = model
    return built


def draw_images(
    first_seed: int, count: int, *, width: int = 64, height: int = 64
) -> npt.NDArray[np.uint8]:
    """`count` pictures without flaws as uint8 (count, height, width, 3)."""
    seeds = range(first_seed, first_seed + count)
    return np.stack([draw(seed, width=width, height=height).image for seed in seeds])


def to_input(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (b, h, w, 3) to float32 (b, 3, h, w) in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(autoencoder: Any, images: npt.NDArray[np.uint8]) -> float:
    """Mean over uint8 (n, h, w, 3) of the peak signal-to-noise ratio of image -> image, in dB."""
    inputs = to_input(images)
    with torch.inference_mode():
        latents = autoencoder.encode(inputs).latent_dist.mode()
        outputs = autoencoder.decode(latents).sample.clamp(-1, 1)
    errors = ((outputs - inputs) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * errors.log10()).mean())


def train_tiny_autoencoder(
    *,
    steps: int,
    minutes: float | None,
    seed: int,
    pictures: int,
    batch_size: int,
    rate: float,
    start: Path | None = None,
) -> AutoencoderKL:
    """Train on the pictures of seeds 0..pictures-1, from scratch or from the folder `start`.

    Sets the scaling factor.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images = draw_images(0, pictures)
    held_out = draw_images(FIRST_HELD_OUT_SEED, 64)
    model: Any = load_tiny_autoencoder(start) if start else build_autoencoder()
    model.train()
    count = sum(weights.numel() for weights in model.parameters())
    LOG.info("drew %d pictures; the autoencoder has %d parameters", pictures, count)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=1e-4)
    pace, step = Pace(steps, minutes), 0
    while (progress := pace.progress(step)) < 1:
        optimizer.param_groups[0]["lr"] = pace.rate(progress, peak=rate)
        batch = _flipped(images[rng.integers(pictures, size=batch_size)], rng)
        loss = _loss(model, to_input(batch))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            figures = (step, loss.item(), psnr(model, held_out), pace.seconds)
            LOG.info("step %d: loss %.4f, held out %.2f dB, %.0f s", *figures)
    LOG.info("%d steps: held out %.2f dB, %.0f s", step, psnr(model, held_out), pace.seconds)
    model.eval()
    factor = _scaling_factor(model, images[:1024])
    model.register_to_config(scaling_factor=factor, _name_or_path="")
    trained: AutoencoderKL = model
    return trained


def _flipped(batch: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    if rng.random() < 0.5:
        batch = batch[:, :, ::-1]
    if rng.random() < 0.5:
        batch = batch.transpose(0, 2, 1, 3)
    return np.ascontiguousarray(batch)


def _loss(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    posterior = model.encode(inputs).latent_dist
    difference = model.decode(posterior.sample()).sample - inputs
    closeness = difference.abs().mean() + 2 * difference.square().mean()
    weighed: torch.Tensor = closeness + _KL_WEIGHT * posterior.kl().mean()
    return weighed


def _scaling_factor(model: Any, images: npt.NDArray[np.uint8]) -> float:
    with torch.inference_mode():
        latents = model.encode(to_input(images)).latent_dist.sample()
    return round(1 / float(latents.std()), 5)


def main() -> None:
    """Parse the command line, train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start", type=Path, help="a trained autoencoder's folder to go on from")
    parser.add_argument("--output", type=Path, default=TINY / "autoencoder")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    torch.set_num_threads(options.threads)
    model: Any = train_tiny_autoencoder(
        steps=options.steps,
        minutes=options.minutes,
        seed=options.seed,
        pictures=options.pictures,
        batch_size=options.batch_size,
        rate=options.rate,
        start=options.start,
    )
    model.half().save_pretrained(options.output, safe_serialization=True)
    LOG.info("saved to %s", options.output)


if __name__ == "__main__":
    main()
