"""Bulk generation beside the plain diffusers pipeline: same prompts, model, sampler and steps."""

import copy
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import StableDiffusionPipeline

from pipelines.prompts import PromptPlanConfig, PromptPlanner, PromptsConfig
from pipelines.run.store import RunStore
from pipelines.steps.generate import GenerateConfig, GenerateStep
from pipelines.steps.generate.config import GenerationDefaults
from pipelines.steps.step import Resources
from sd_core.model.autoencoder import decode_latents
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.denoiser import DenoiserConfig, unwrap_module
from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.precision import model_dtype
from sd_core.model.text_encoder import TextEncoderConfig
from sd_core.sampling.samplers import SamplerName, build_sampler
from sd_core.say import Say
from sd_core.training.flops import count_flops, forward_once, measure_peak

_PROMPT = "a photograph of a street in the rain with people under umbrellas, number {}"
_SAMPLER: SamplerName = "dpmpp_2m"


@dataclass(frozen=True, kw_only=True)
class GenerateBench:
    """What to measure."""

    models: Literal["tiny", "real"]
    """`tiny`: the preset; `real`: Stable Diffusion 1.5's sizes at 512 px, random weights."""
    images: int
    batch_size: int
    steps: int
    guidance_scale: float
    repeats: int
    """Of each side, in turns; the fastest counts."""
    workers: int
    """Of ours, each a process with one thread on a CPU, as the engine's are; the plain pipeline
    takes torch's own choice of threads, which is every core."""
    device: str


@dataclass(frozen=True, kw_only=True)
class GenerateResult:
    """Images a second, to files on disk."""

    models: str
    device: str
    batch_size: int
    ours_per_second: float
    single_per_second: float
    """The plain pipeline, one prompt at a time."""
    batched_per_second: float
    """The plain pipeline at our batch size."""
    flops_share: float
    """Ours: computed work over what the device reaches."""

    @property
    def ratio(self) -> float:
        """How much faster than one prompt at a time."""
        return self.ours_per_second / self.single_per_second

    @property
    def batched_ratio(self) -> float:
        """How much faster than the plain pipeline at the same batch size."""
        return self.ours_per_second / self.batched_per_second


def measure_generate(bench: GenerateBench, *, say: Say) -> GenerateResult:
    """Make the same images three ways, in turns."""
    device = torch.device(bench.device)
    model = load_latent_diffusion(_model_config(bench.models), device=device)
    pipeline = plain_pipeline(model, sampler=_SAMPLER)
    prompts = [_PROMPT.format(number) for number in range(bench.images)]
    sides: dict[str, Callable[[], None]] = {
        "plain, one at a time": lambda: _run_plain(pipeline, bench, prompts, 1),
        "plain, batched": lambda: _run_plain(pipeline, bench, prompts, bench.batch_size),
    }
    rates: dict[str, list[float]] = {name: [] for name in (*sides, "ours")}
    with tempfile.TemporaryDirectory(prefix="bench-generate-") as folder:
        step, num_shards = _our_step(bench, prompts, Path(folder))
        with _Workers(step, bench.workers) as workers:
            sides["ours"] = lambda: workers.run(num_shards)
            for turn in range(bench.repeats + 1):  # the first warms up
                for name, work in sides.items():
                    seconds = _timed(work, device)
                    if turn:
                        rates[name].append(bench.images / seconds)
                        say(f"{bench.models} models, {name}: {rates[name][-1]:.2f} images/s")
    best = {name: max(found) for name, found in rates.items()}
    peak = measure_peak(device, model_dtype("auto", device))
    return GenerateResult(
        models=bench.models,
        device=str(device),
        batch_size=bench.batch_size,
        ours_per_second=best["ours"],
        single_per_second=best["plain, one at a time"],
        batched_per_second=best["plain, batched"],
        flops_share=best["ours"] * _image_flops(model, bench) / peak,
    )


def _model_config(models: Literal["tiny", "real"]) -> LatentDiffusionConfig:
    if models == "tiny":
        return LatentDiffusionConfig(model="preset:tiny/model")
    return LatentDiffusionConfig(
        autoencoder=AutoencoderConfig(model="sd-v1", pretrained=False),
        text_encoder=TextEncoderConfig(model="sd-v1", pretrained=False),
        denoiser=DenoiserConfig(model="sd-v1", pretrained=False),
    )


def plain_pipeline(model: LatentDiffusion, *, sampler: SamplerName) -> Any:
    """diffusers' pipeline on the very same modules."""
    tokenizer = copy.copy(model.text_encoder.tokenizer)
    tokenizer.model_max_length = model.text_encoder.token_length  # the pipeline asks for it
    parts: dict[str, Any] = {
        "vae": model.autoencoder.module,
        "text_encoder": model.text_encoder.module,
        "tokenizer": tokenizer,
        "unet": unwrap_module(model.denoiser),
        "scheduler": build_sampler(sampler, model.noise_schedule),
    }
    family: Any = StableDiffusionPipeline  # it carries no types
    pipeline = family(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _run_plain(
    pipeline: Any, bench: GenerateBench, prompts: Sequence[str], batch_size: int
) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-plain-") as folder:
        for start in range(0, len(prompts), batch_size):
            images = pipeline(
                list(prompts[start : start + batch_size]),
                num_inference_steps=bench.steps,
                guidance_scale=bench.guidance_scale,
                generator=torch.Generator().manual_seed(start),
            ).images
            for number, image in enumerate(images):
                image.save(Path(folder) / f"{start + number:06d}.png")


def _our_step(
    bench: GenerateBench, prompts: Sequence[str], folder: Path
) -> tuple[GenerateStep, int]:
    """The step, and the shards that its workers share."""
    path = folder / "prompts.parquet"
    pq.write_table(pa.table({"prompt": list(prompts)}), path)
    store = RunStore(str(folder / "run"))
    growth = PromptPlanner(
        store,
        PromptsConfig(path=str(path)).source(),
        PromptPlanConfig(images_per_shard=bench.images // bench.workers),
        num_images=1,
        say=lambda line: None,
    ).plan(grow=False)
    config = GenerateConfig(
        model=_model_config(bench.models),
        defaults=GenerationDefaults(
            num_inference_steps=bench.steps,
            guidance_scale=bench.guidance_scale,
            sampler=_SAMPLER,
        ),
        batch_size=bench.batch_size,
    )
    step = GenerateStep(
        store,
        growth.plan,
        fingerprint="bench",
        config=config,
        torch_threads=1,
        resources=Resources(num_gpus=float(bench.device.startswith("cuda"))),
    )
    return step, growth.plan.num_shards


class _Workers:
    """Processes that each hold the model, as the engine's workers do; one needs none."""

    def __init__(self, step: GenerateStep, count: int) -> None:
        self._step = step
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count, spawn, initializer=_open, initargs=(step,))

    def __enter__(self) -> Self:
        if self._pool is None:
            self._step.open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is None:
            self._step.close()
        else:
            self._pool.shutdown()

    def run(self, num_shards: int) -> None:
        """Make, write and commit every shard; a commit that is there already stays."""
        if self._pool is None:
            for shard_id in range(num_shards):
                self._step.run(shard_id)
        else:
            list(self._pool.map(_run, range(num_shards)))


_opened: list[GenerateStep] = []


def _open(step: GenerateStep) -> None:
    step.open()
    _opened.append(step)


def _run(shard_id: int) -> None:
    _opened[0].run(shard_id)


def _timed(work: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _image_flops(model: LatentDiffusion, bench: GenerateBench) -> int:
    """Work of one image: two passes of the denoiser a step where it is guided, and the decoder."""
    passes = bench.steps * (2 if bench.guidance_scale > 1 else 1)
    latents = torch.zeros(1, *model.latents_shape, device=model.autoencoder.device)
    decoding = count_flops(lambda: decode_latents(model.autoencoder, latents))
    return passes * count_flops(lambda: forward_once(model)) + decoding
