"""Measure the tiny denoiser on held-out prompts: `python -m jobs.tiny.measure_denoiser`.

It generates a picture for each caption of FIRST_HELD_OUT_SEED and up, lets the pixel-level judge
name what each shows, and prints the shares that are as asked, beside the judge's own shares on
drawn pictures. The exit status is 1 where a share is short of what is needed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from jobs.tiny.drawing import FIRST_HELD_OUT_SEED, Picture, Subject, draw
from jobs.tiny.judge import ATTRIBUTES, Judgement, agreement, judge_picture
from jobs.tiny.loading import TINY
from jobs.tiny.train_autoencoder import to_input
from sd_core.cache.latents import scale_latents
from sd_core.model.autoencoder import encode_images
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.clip import ClipConfig
from sd_core.model.denoiser import DenoiserConfig
from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.noise_schedule import NoiseScheduleConfig, noise_schedule_of_scheduler
from sd_core.model.text_conditioning import encode_conditioning, encode_unconditional
from sd_core.model.text_encoder import TextEncoderConfig
from sd_core.sampling.noise import initial_noise, row_generators
from sd_core.sampling.picture_grid import Cell, picture_grid
from sd_core.sampling.samplers import SAMPLERS, SamplerName
from sd_core.sampling.text_to_image import decode_images, generate_images

NEEDED = {"color": 0.95, "background": 0.95, "shape": 0.85, "size": 0.90, "position": 0.90}
NEEDED_OF_JUDGE = 0.98  # of drawn pictures
GUIDANCE_SCALE = 2.0
_SIDE = 64

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class JudgedSamples:
    """Pictures uint8 (n, 64, 64, 3), what they should show, and what the judge sees."""

    subjects: list[Subject]
    images: Images
    judgements: list[Judgement]

    def shares(self) -> dict[str, float]:
        """The share of right pictures, 0 to 1, by attribute."""
        right = [
            agreement(judgement, subject)
            for judgement, subject in zip(self.judgements, self.subjects, strict=True)
        ]
        return {name: float(np.mean([row[name] for row in right])) for name in ATTRIBUTES}

    def all_right(self) -> float:
        """The share of pictures with every attribute right."""
        pairs = zip(self.judgements, self.subjects, strict=True)
        return float(np.mean([all(agreement(*pair).values()) for pair in pairs]))


def load_tiny(folder: Path, *, device: str = "cpu") -> LatentDiffusion:
    """Load a diffusers folder, or its denoiser with the tiny autoencoder and CLIP around it.

    Without a `vae` subfolder, `unet` (or the folder itself) is the denoiser, and the noise
    schedule that of `scheduler`, or Stable Diffusion's where there is none.

    Raises:
        WeightsError: it cannot be loaded.
    """
    if (folder / "vae").is_dir():
        return load_latent_diffusion(LatentDiffusionConfig(model=str(folder)), device=device)
    denoiser = folder / "unet" if (folder / "unet").is_dir() else folder
    clip = ClipConfig(name=str(TINY / "clip"))
    sections = LatentDiffusionConfig(
        autoencoder=AutoencoderConfig(model=str(TINY / "autoencoder")),
        text_encoder=TextEncoderConfig(clip=clip),
        denoiser=DenoiserConfig(model=str(denoiser)),
        noise_schedule=_noise_schedule(folder / "scheduler" / "scheduler_config.json"),
    )
    return load_latent_diffusion(sections, device=device)


def _noise_schedule(path: Path) -> NoiseScheduleConfig | None:
    if not path.is_file():
        return None
    return noise_schedule_of_scheduler(json.loads(path.read_text()), where=str(path))


def sample_images(
    model: LatentDiffusion,
    seeds: Sequence[int],
    *,
    sampler: SamplerName,
    num_inference_steps: int,
    guidance_scale: float,
    batch_size: int = 50,
) -> JudgedSamples:
    """Generate and judge a picture for the caption of each seed; the noise has the seed too."""
    drawn = [draw(seed) for seed in seeds]
    side = _SIDE // model.autoencoder.downsampling
    generators = row_generators(seeds)
    images = generate_images(
        model,
        conditioning=encode_conditioning(model, [picture.caption for picture in drawn]),
        unconditional=encode_unconditional(model, [""]),
        noise=initial_noise(generators, shape=(model.autoencoder.latent_channels, side, side)),
        sampler=sampler,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        generators=generators,
        batch_size=min(batch_size, len(drawn)),
    )
    return judged(drawn, images.numpy())


def judged(drawn: Sequence[Picture], images: Images) -> JudgedSamples:
    """Judge images (n, 64, 64, 3) by what the drawn pictures show."""
    subjects = [
        Subject(
            shape=picture.shape,
            color=picture.color,
            background=picture.background,
            size=picture.size,
            position=picture.position,
        )
        for picture in drawn
    ]
    return JudgedSamples(subjects, images, [judge_picture(image) for image in images])


def through_autoencoder(model: LatentDiffusion, images: Images) -> Images:
    """Encode (the posterior's mean) and decode images: what a perfect denoiser could give."""
    raw = encode_images(model.autoencoder, to_input(images), form="mean")
    return decode_images(model, scale_latents(raw, model.identity.autoencoder)).numpy()


def table(generated: JudgedSamples, drawn: JudgedSamples, restored: JudgedSamples) -> str:
    """The shares as lines of text."""
    lines = [f"{'':12}{'generated':>10}{'needed':>8}{'| judge: drawn':>16}{'autoencoded':>13}"]
    columns = [part.shares() for part in (generated, drawn, restored)]
    for name in ATTRIBUTES:
        made, on_drawn, on_restored = (100 * column[name] for column in columns)
        mark = "" if made >= 100 * NEEDED[name] else "  short"
        needed = f"{100 * NEEDED[name]:.0f}%"
        lines.append(f"{name:12}{made:9.1f}%{needed:>8}{on_drawn:15.1f}%{on_restored:12.1f}%{mark}")
    shares = [100 * part.all_right() for part in (generated, drawn, restored)]
    lines.append(f"{'all five':12}{shares[0]:9.1f}%{'':8}{shares[1]:15.1f}%{shares[2]:12.1f}%")
    return "\n".join(lines)


def falls_short(generated: JudgedSamples, drawn: JudgedSamples) -> list[str]:
    """What is under its need, in words; empty where all is well."""
    made, judge = generated.shares(), drawn.shares()
    short = [f"{name} {made[name]:.3f}" for name in ATTRIBUTES if made[name] < NEEDED[name]]
    return short + [
        f"the judge's {name} {judge[name]:.3f}"
        for name in ATTRIBUTES
        if judge[name] < NEEDED_OF_JUDGE
    ]


def cells(generated: JudgedSamples) -> list[Cell]:
    """One cell of the grid for each picture."""
    made = zip(generated.images, generated.subjects, generated.judgements, strict=True)
    return [_cell(image, subject, judgement) for image, subject, judgement in made]


def _cell(image: Images, subject: Subject, judgement: Judgement) -> Cell:
    wrong = [name for name, right in agreement(judgement, subject).items() if not right]
    seen = ", ".join(getattr(judgement, name) or f"no {name}" for name in wrong)
    lines = (
        f"{subject.size} {subject.color} {subject.shape}",
        f"{subject.position} on {subject.background}",
    )
    return Cell(image, lines, f"seen: {seen}" if wrong else None, is_judged=True)


def main() -> int:
    """Parse the command line, measure, print the table and write the grid."""
    options = _options()
    torch.set_num_threads(options.threads)
    model = load_tiny(options.model, device=options.device)
    seeds = range(options.first_seed, options.first_seed + options.count)
    generated = sample_images(
        model,
        seeds,
        sampler=options.sampler,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance_scale,
        batch_size=options.batch_size,
    )
    pictures = [draw(seed) for seed in seeds]
    images = np.stack([picture.image for picture in pictures])
    drawn = judged(pictures, images)
    restored = judged(pictures, through_autoencoder(model, images))
    print(
        f"{options.count} held-out prompts (seeds from {options.first_seed}): {options.sampler}, "
        f"{options.steps} steps, guidance {options.guidance_scale:g}"
    )
    print(table(generated, drawn, restored))
    picture_grid(cells(generated)).save(options.output)
    print(f"pictures: {options.output}")
    short = falls_short(generated, drawn)
    if short:
        print(f"short: {', '.join(short)}", file=sys.stderr)
    return 1 if short else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        type=Path,
        default=TINY / "model",
        help="a diffusers folder, or a denoiser's to go with the tiny autoencoder and CLIP",
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=FIRST_HELD_OUT_SEED)
    parser.add_argument("--sampler", choices=SAMPLERS, default="dpmpp_2m")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance-scale", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("denoiser-grid.png"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
