"""A latent cache of random values, of a model's sizes or of Stable Diffusion's."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sd_core.cache.formats import format_of, open_shard_writer
from sd_core.cache.latent_cache import LatentCache, open_cache
from sd_core.cache.samples import EmptyCaption, LatentSample
from sd_core.cache.spec import CacheSpec
from sd_core.model.latent_diffusion import LatentDiffusion

_NUM_SHARDS = 8
_STABLE_DIFFUSION: dict[str, Any] = {
    "autoencoder": {
        "kind": "kl",
        "weights_sha256": "0" * 64,
        "scaling_factor": 0.18215,
        "shift_factor": 0.0,
        "latent_channels": 4,
        "downsampling": 8,
    },
    "text_encoder": {
        "weights_sha256": "0" * 64,
        "tokenizer_sha256": "0" * 64,
        "token_length": 77,
        "embed_dim": 768,
        "pad_token_id": 49407,
    },
}


def write_random_cache(
    folder: Path,
    *,
    rows: int,
    model: LatentDiffusion | None = None,
    form: str = "moments",
    file_format: str = "webdataset",
) -> LatentCache:
    """Write `<folder>/latents` and open it.

    Args:
        folder: A run's, empty.
        rows: In eight shards.
        model: Whose latents and embeddings they could be; without one Stable Diffusion's sizes
            at 512 px, with token ids alone.
        form: `mean` or `moments`.
        file_format: `webdataset` or `parquet`.
    """
    identity = _STABLE_DIFFUSION if model is None else model.identity.model_dump()
    side = 64 if model is None else model.latents_shape[-1]
    spec = CacheSpec.model_validate(
        {
            "identity": identity,
            "form": form,
            "dtype": "float16",
            "format": file_format,
            "resolution_px": side * identity["autoencoder"]["downsampling"],
            "prompt_embeds": model is not None,
        }
    )
    latents = folder / "latents"
    latents.mkdir(parents=True)
    rng = np.random.default_rng(0)
    index = [
        _write_shard(folder, spec, shard_id, len(part), rng)
        for shard_id, part in enumerate(np.array_split(np.arange(rows), _NUM_SHARDS))
    ]
    pq.write_table(pa.Table.from_pylist(index), latents / "index.parquet")
    (latents / "spec.json").write_bytes(spec.to_json())
    (latents / "empty_caption.safetensors").write_bytes(_empty_caption(spec).to_bytes())
    return open_cache(str(latents))


def _write_shard(
    folder: Path, spec: CacheSpec, shard_id: int, rows: int, rng: np.random.Generator
) -> dict[str, Any]:
    path = folder / "latents" / f"{shard_id:06d}{format_of(spec).suffix}"
    with open_shard_writer(path, spec) as writer:
        for row in range(rows):
            writer.write(_sample(spec, f"{shard_id:08x}{row:08x}", rng))
    content = path.read_bytes()
    return {
        "shard_id": shard_id,
        "path": f"latents/{path.name}",
        "sha256": hashlib.sha256(content).hexdigest(),
        "num_bytes": len(content),
        "num_rows": rows,
    }


def _sample(spec: CacheSpec, key: str, rng: np.random.Generator) -> LatentSample:
    def values(shape: tuple[int, ...]) -> Any:
        return rng.standard_normal(shape, dtype=np.float32).astype(spec.dtype)

    return LatentSample(
        key=key,
        raw_latents=values(spec.latents_shapes[0]),
        input_ids=np.zeros(spec.embeds_shape[0], np.int32),
        prompt_embeds=values(spec.embeds_shape) if spec.prompt_embeds else None,
        caption="a made-up row",
    )


def _empty_caption(spec: CacheSpec) -> EmptyCaption:
    length, width = spec.embeds_shape
    return EmptyCaption(
        input_ids=np.zeros(length, np.int32),
        prompt_embeds=np.zeros((length, width), np.float32),
        pooled_prompt_embeds=np.zeros(width, np.float32),
    )
