"""Train the tiny autoencoder: `python -m sd_core.presets.train_autoencoder`.

An f8 autoencoder with 4 latent channels, on drawn pictures; writes diffusers' config.json (with
the scaling factor, 1 / standard deviation of the latents) and safetensors weights.
"""

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL

from sd_core.presets.drawing import FIRST_HELD_OUT_SEED, draw

LOG = logging.getLogger(__name__)
TINY = Path(__file__).parent / "tiny"
_KL_WEIGHT = 1e-6


def build_autoencoder() -> AutoencoderKL:
    """The untrained architecture: (b, 3, h, w) in -1..1 to latents (b, 4, h/8, w/8)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def draw_images(
    first_seed: int, count: int, *, width: int = 64, height: int = 64
) -> npt.NDArray[np.uint8]:
    """`count` pictures without flaws as uint8 (count, height, width, 3)."""
    seeds = range(first_seed, first_seed + count)
    return np.stack([draw(seed, width=width, height=height).image for seed in seeds])


def as_input(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (b, h, w, 3) to float32 (b, 3, h, w) in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(autoencoder: Any, images: npt.NDArray[np.uint8]) -> float:
    """Mean over uint8 (n, h, w, 3) of the peak signal-to-noise ratio of image -> image, in dB."""
    inputs = as_input(images)
    with torch.inference_mode():
        latents = autoencoder.encode(inputs).latent_dist.mode()
        outputs = autoencoder.decode(latents).sample.clamp(-1, 1)
    errors = ((outputs - inputs) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * errors.log10()).mean())


def train(*, steps: int, seed: int, pictures: int, batch_size: int, rate: float) -> AutoencoderKL:
    """Train from scratch on the pictures of seeds 0..pictures-1; sets the scaling factor."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images = draw_images(0, pictures)
    held_out = draw_images(FIRST_HELD_OUT_SEED, 64)
    model: Any = build_autoencoder().to(memory_format=torch.channels_last)
    count = sum(weights.numel() for weights in model.parameters())
    LOG.info("drew %d pictures; the autoencoder has %d parameters", pictures, count)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=steps, pct_start=0.05
    )
    start = time.monotonic()
    for step in range(1, steps + 1):
        inputs = as_input(_flipped(images[rng.integers(pictures, size=batch_size)], rng))
        loss = _loss(model, inputs.contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            seconds = time.monotonic() - start
            figures = (step, float(loss), psnr(model.eval(), held_out), seconds)
            LOG.info("step %d: loss %.4f, held out %.2f dB, %.0f s", *figures)
            model.train()
    model.eval()
    model.register_to_config(scaling_factor=_scaling_factor(model, images[:1024]))
    trained: AutoencoderKL = model
    return trained


def _flipped(batch: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(batch[:, :, ::-1] if rng.random() < 0.5 else batch)


def _loss(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=_BF16):
        posterior = model.encode(inputs).latent_dist
        outputs = model.decode(posterior.sample()).sample
    difference = outputs.float() - inputs
    closeness = difference.abs().mean() + 2 * difference.square().mean()
    weighed: torch.Tensor = closeness + _KL_WEIGHT * posterior.kl().float().mean()
    return weighed


def _scaling_factor(model: Any, images: npt.NDArray[np.uint8]) -> float:
    with torch.inference_mode():
        latents = model.encode(as_input(images)).latent_dist.sample()
    return round(1 / float(latents.std()), 5)


_BF16 = True


def main() -> None:
    """Parse the command line, train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=TINY / "autoencoder")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    torch.set_num_threads(options.threads)
    model: Any = train(
        steps=options.steps,
        seed=options.seed,
        pictures=options.pictures,
        batch_size=options.batch_size,
        rate=options.rate,
    )
    model.half().save_pretrained(options.output, safe_serialization=True)
    LOG.info("saved to %s", options.output)


if __name__ == "__main__":
    main()
