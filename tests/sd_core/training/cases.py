"""A model of the tiny presets with a small random denoiser, and a cache made with it."""

import dataclasses
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs.tiny.drawing import draw
from sd_core.cache.dataset import DrawnSample
from sd_core.cache.formats import open_shard_writer
from sd_core.cache.latent_cache import LatentCache
from sd_core.cache.samples import EmptyCaption, LatentSample
from sd_core.cache.spec import CacheSpec
from sd_core.model.autoencoder import encode_images
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.clip import ClipConfig
from sd_core.model.denoiser import DenoiserConfig
from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.noise_schedule import NoiseScheduleConfig, build_noise_schedule
from sd_core.model.text_encoder import TextEncoderConfig, encode_captions
from sd_core.training.batches import TrainingBatch, collate

SETTINGS: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 128,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def model_config(*, prediction_type: Any = "epsilon", seed: int = 0) -> LatentDiffusionConfig:
    """The tiny presets around a denoiser of some thousand parameters."""
    return LatentDiffusionConfig(
        autoencoder=AutoencoderConfig(model="preset:tiny/autoencoder"),
        text_encoder=TextEncoderConfig(clip=ClipConfig(name="preset:tiny/clip")),
        denoiser=DenoiserConfig(settings=SETTINGS, seed=seed, precision="fp32"),
        noise_schedule=NoiseScheduleConfig(prediction_type=prediction_type),
    )


@cache
def _loaded() -> LatentDiffusion:
    return load_latent_diffusion(model_config(), device="cpu")


def make_model(*, prediction_type: Any = "epsilon") -> LatentDiffusion:
    """A model with the same random denoiser each time, a fresh one of its own."""
    from sd_core.model.denoiser import load_denoiser

    config = model_config(prediction_type=prediction_type)
    assert config.denoiser is not None
    assert config.noise_schedule is not None
    return dataclasses.replace(
        _loaded(),
        denoiser=load_denoiser(config.denoiser, device="cpu"),
        noise_schedule=build_noise_schedule(config.noise_schedule),
    )


def pictures(count: int) -> tuple[torch.Tensor, list[str]]:
    """Drawn pictures (count, 3, 64, 64) in -1..1, and their captions."""
    drawn = [draw(seed) for seed in range(count)]
    images = torch.from_numpy(np.stack([picture.image for picture in drawn]))
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1, [one.caption for one in drawn]


def spec_of(model: LatentDiffusion, **changes: Any) -> CacheSpec:
    """The spec of a cache of the model's."""
    tree = {
        "identity": model.identity.model_dump(),
        "form": "moments",
        "dtype": "float16",
        "format": "webdataset",
        "resolution_px": 64,
        "prompt_embeds": True,
        **changes,
    }
    return CacheSpec.model_validate(tree)


def encoded_samples(
    model: LatentDiffusion, count: int, *, dtype: str = "float16"
) -> list[LatentSample]:
    """Drawn pictures as a cache stores them: moments, ids and embeddings."""
    images, captions = pictures(count)
    moments = encode_images(model.autoencoder, images, form="moments").numpy()
    text = encode_captions(model.text_encoder, captions)
    return [
        LatentSample(
            key=f"{place:016x}",
            raw_latents=moments[place].astype(dtype),
            input_ids=text.input_ids[place].numpy(),
            prompt_embeds=text.prompt_embeds[place].numpy().astype(dtype),
            caption=captions[place],
        )
        for place in range(count)
    ]


def empty_caption(model: LatentDiffusion) -> EmptyCaption:
    """The encoded empty caption, as every cache holds it."""
    text = encode_captions(model.text_encoder, [""])
    return EmptyCaption(
        input_ids=text.input_ids[0].numpy(),
        prompt_embeds=text.prompt_embeds[0].numpy(),
        pooled_prompt_embeds=text.pooled_prompt_embeds[0].numpy(),
    )


def held_cache(model: LatentDiffusion, **changes: Any) -> LatentCache:
    """A cache without shards, for collating samples at hand."""
    return LatentCache(
        path="memory",
        spec=spec_of(model, **changes),
        empty_caption=empty_caption(model),
        shards=(),
    )


def drawn(samples: list[LatentSample], *, epoch: int = 0) -> list[DrawnSample]:
    """The samples as the dataset draws them, in order."""
    return [
        DrawnSample(sample=sample, cache_index=0, epoch=epoch, index=place)
        for place, sample in enumerate(samples)
    ]


def collated(
    samples: list[DrawnSample], caches: list[LatentCache], **options: Any
) -> TrainingBatch:
    """A batch as a step on the CPU has it."""
    return collate(samples, caches, **options).to(torch.device("cpu"))


def write_cache(folder: Path, model: LatentDiffusion, samples: list[LatentSample]) -> Path:
    """A run's `latents` folder with two shards."""
    latents = folder / "latents"
    latents.mkdir(parents=True)
    spec, rows = spec_of(model), []
    half = len(samples) // 2
    for shard_id, part in enumerate((samples[:half], samples[half:])):
        path = latents / f"{shard_id:06d}.tar"
        with open_shard_writer(path, spec) as writer:
            for sample in part:
                writer.write(sample)
        content = path.read_bytes()
        rows.append(
            {
                "shard_id": shard_id,
                "path": f"latents/{path.name}",
                "sha256": hashlib.sha256(content).hexdigest(),
                "num_bytes": len(content),
                "num_rows": len(part),
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), latents / "index.parquet")
    (latents / "spec.json").write_bytes(spec.to_json())
    (latents / "empty_caption.safetensors").write_bytes(empty_caption(model).to_bytes())
    return latents
