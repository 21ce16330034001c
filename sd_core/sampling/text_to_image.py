"""Text to image: guided sampling of latents, then one decoding; batches do not change a row."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sd_core.cache.latents import unscale_latents
from sd_core.model.autoencoder import decode_latents
from sd_core.model.conditioning import Conditioning, concatenate_conditionings
from sd_core.model.denoiser import guidance_width, predict
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.memory import to_device
from sd_core.sampling.guidance import embed_guidance_scale, guide, rescale_guided
from sd_core.sampling.passing import without_waiting
from sd_core.sampling.samplers import SamplerName, build_sampler, draws_noise
from sd_core.sampling.source import SourceLatents, SourceNoiser
from sd_core.sampling.stage import WHOLE, Stage


@torch.inference_mode()
def generate_latents(
    model: LatentDiffusion,
    *,
    conditioning: Conditioning,
    unconditional: Conditioning,
    noise: Tensor,
    sampler: SamplerName,
    num_inference_steps: int,
    guidance_scale: float | Tensor,
    guidance_rescale: float = 0.0,
    generators: Sequence[torch.Generator] | None = None,
    source: SourceLatents | None = None,
    stage: Stage = WHOLE,
) -> Tensor:
    """Sample latents from noise, or from other latents.

    Args:
        model: On any device; the noise and the conditionings are brought to it.
        conditioning: Of the B captions.
        unconditional: Of the empty caption, one row or B; not used where guidance_scale <= 1.
        noise: (B, C, h, w) float32 on the CPU, standard normal, of `initial_noise`.
        sampler: One of `samplers_of(model.noise_schedule)`.
        num_inference_steps: At least 1; PNDM calls the denoiser once more.
        guidance_scale: Up to 1 guides nothing and halves the work; a tensor (B,) has each row's
            own, all of them guiding or none. A denoiser that takes it as an input is told it, and
            is called once a step whatever it is.
        guidance_rescale: See `rescale_guided`.
        generators: One for each row; samplers that draw noise in their steps need them.
        source: What to start from; without it, from the noise alone.
        stage: The part of the way that this model takes; where it does not begin at noise, `noise`
            is the latents that the model before it left.

    Returns:
        (B, C, h, w) float32 scaled latents on the model's device.

    Raises:
        ValueError: the numbers of rows differ, generators are missing, or the sampler does not
            fit the noise schedule.
    """
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps is {num_inference_steps}; allowed are 1 and up")
    _check_rows(noise, conditioning, generators, sampler)
    device = next(model.denoiser.parameters()).device
    text = conditioning.to(device)
    if (width := guidance_width(model.denoiser)) is None:
        guided, scale = _guidance(guidance_scale, device)
    else:
        guided, scale = False, 1.0
        text = _with_guidance(text, guidance_scale, width=width)
    if guided:
        text = concatenate_conditionings([_for_each_row(unconditional, noise).to(device), text])
    scheduler = build_sampler(sampler, model.noise_schedule)
    scheduler.set_timesteps(num_inference_steps)  # kept on the CPU, where a step looks itself up
    options = _step_options(scheduler, generators)
    latents, timesteps_left = to_device(noise, device), stage.timesteps(scheduler)
    noiser = None
    with without_waiting(device):
        if source is not None:
            noiser = SourceNoiser(
                scheduler, source, noise=latents, num_inference_steps=num_inference_steps
            )
            latents, timesteps_left = noiser.first(), noiser.timesteps
        elif stage.begin == 0:
            latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    timesteps_there = to_device(timesteps_left, device)  # once, for all steps
    for step, timestep in enumerate(timesteps_left):
        inputs = torch.cat([latents, latents]) if guided else latents
        if hasattr(scheduler, "scale_model_input"):
            inputs = scheduler.scale_model_input(inputs, timestep)
        timesteps = timesteps_there[step].expand(len(inputs))
        prediction = predict(model.denoiser, inputs, timesteps, text)
        if guided:
            without, with_text = prediction.chunk(2)
            prediction = guide(without, with_text, scale)
            if guidance_rescale > 0:
                prediction = rescale_guided(prediction, with_text, guidance_rescale)
        with without_waiting(device):
            latents = scheduler.step(prediction, timestep, latents, return_dict=False, **options)[0]
            if noiser is not None:
                latents = noiser.after(latents, step)
    finished: Tensor = latents
    return finished


def _guidance(guidance_scale: float | Tensor, device: torch.device) -> tuple[bool, float | Tensor]:
    """Whether the rows are guided, and the scale as it is multiplied with."""
    if not isinstance(guidance_scale, Tensor):
        return guidance_scale > 1, guidance_scale
    is_guided = (guidance_scale > 1).tolist()
    if any(is_guided) != all(is_guided):
        raise ValueError(
            f"guidance_scale {guidance_scale.tolist()}: some rows are guided (above 1) and some "
            "are not; sample them apart"
        )
    return all(is_guided), to_device(guidance_scale, device).view(-1, 1, 1, 1)


def _with_guidance(
    text: Conditioning, guidance_scale: float | Tensor, *, width: int
) -> Conditioning:
    """The scale as the denoiser's input; no text is guided away from then."""
    scales = torch.as_tensor(guidance_scale, dtype=torch.float32).expand(len(text))
    embedding = embed_guidance_scale(scales, width=width)  # on the CPU, as the rows' noise
    return replace(text, guidance_embedding=to_device(embedding, text.prompt_embeds.device))


@torch.inference_mode()
def generate_images(
    model: LatentDiffusion,
    *,
    conditioning: Conditioning,
    unconditional: Conditioning,
    noise: Tensor,
    sampler: SamplerName,
    num_inference_steps: int,
    guidance_scale: float,
    guidance_rescale: float = 0.0,
    generators: Sequence[torch.Generator] | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Sample and decode images; the arguments are those of `generate_latents`, and:

    Args:
        batch_size: Rows at a time; the last batch is filled up to it with rows that are thrown
            away, so that an image does not depend on how many others are asked for.

    Returns:
        (B, H, W, 3) uint8 on the CPU.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; allowed are 1 and up")
    _check_rows(noise, conditioning, generators, sampler)
    images: list[Tensor] = []
    rows = _Rows(conditioning, _for_each_row(unconditional, noise), noise, generators)
    for batch in _batches(rows, batch_size or max(1, len(noise))):
        latents = generate_latents(
            model,
            conditioning=batch.conditioning,
            unconditional=batch.unconditional,
            noise=batch.noise,
            sampler=sampler,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            generators=batch.generators,
        )
        images.append(decode_images(model, latents))
    return torch.cat(images)[: len(noise)]


@torch.inference_mode()
def decode_images(model: LatentDiffusion, latents: Tensor) -> Tensor:
    """Scaled latents (B, C, h, w) to uint8 (B, H, W, 3) on the CPU.

    They are unscaled once, and rounded as diffusers' image processor does.
    """
    return as_levels(decode_scaled(model, latents))


@torch.inference_mode()
def decode_scaled(
    model: LatentDiffusion, latents: Tensor, *, batch_size: int | None = None
) -> Tensor:
    """Scaled latents (B, C, h, w) to float32 images (B, 3, H, W) in [-1, 1]; NaN stays NaN.

    Args:
        batch_size: Of `decode_latents`.
    """
    raw = unscale_latents(latents, model.identity.autoencoder)
    return decode_latents(model.autoencoder, raw, batch_size=batch_size)


def as_levels(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3) on the CPU."""
    return levels_of(images).cpu()


def levels_of(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3) on their device."""
    levels = ((images * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True)
class _Rows:
    conditioning: Conditioning
    unconditional: Conditioning
    noise: Tensor
    generators: Sequence[torch.Generator] | None


def _batches(rows: _Rows, size: int) -> Iterator[_Rows]:
    """Batches of exactly `size` rows; the last row is repeated to fill the last one."""
    count = len(rows.noise)
    for start in range(0, count, size):
        picks = torch.arange(start, start + size).clamp(max=count - 1)
        own = list(rows.generators[start : start + size]) if rows.generators else None
        yield _Rows(
            rows.conditioning.rows(picks),
            rows.unconditional.rows(picks),
            rows.noise[picks],
            own and own + [torch.Generator() for _ in range(size - len(own))],
        )


def _for_each_row(unconditional: Conditioning, noise: Tensor) -> Conditioning:
    if len(unconditional) == len(noise):
        return unconditional
    if len(unconditional) != 1:
        raise ValueError(
            f"the unconditional has {len(unconditional)} rows and the noise {len(noise)}; give it "
            "one row, or as many"
        )
    return unconditional.expand(len(noise))


def _check_rows(
    noise: Tensor,
    conditioning: Conditioning,
    generators: Sequence[torch.Generator] | None,
    sampler: SamplerName,
) -> None:
    if len(conditioning) != len(noise) or len(noise) == 0:
        raise ValueError(
            f"the conditioning has {len(conditioning)} rows and the noise {len(noise)}; both need "
            "as many, at least one"
        )
    if generators is not None and len(generators) != len(noise):
        raise ValueError(f"{len(generators)} generators for {len(noise)} rows; one a row is needed")
    if generators is None and draws_noise(sampler):
        raise ValueError(f"sampler {sampler!r} draws noise at every step; give it the generators")


def _step_options(
    scheduler: Any, generators: Sequence[torch.Generator] | None
) -> dict[str, list[torch.Generator]]:
    takes = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": list(generators)} if takes and generators is not None else {}
