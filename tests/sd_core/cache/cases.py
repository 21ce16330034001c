"""A small spec and samples that fit it."""

from typing import Any

import numpy as np

from sd_core.cache.samples import LatentSample
from sd_core.cache.spec import CacheSpec


def make_spec(**changes: Any) -> CacheSpec:
    """A spec of 16 px images, 4 channels at a quarter of the size, 6 tokens of 5 values."""
    tree: dict[str, Any] = {
        "identity": {
            "autoencoder": {
                "kind": "kl",
                "weights_sha256": "a" * 64,
                "scaling_factor": 0.18215,
                "shift_factor": 0.0,
                "latent_channels": 4,
                "downsampling": 4,
            },
            "text_encoder": {
                "weights_sha256": "b" * 64,
                "tokenizer_sha256": "c" * 64,
                "token_length": 6,
                "embed_dim": 5,
                "pad_token_id": 1,
            },
        },
        "form": "moments",
        "dtype": "float16",
        "format": "webdataset",
        "resolution_px": 16,
        "prompt_embeds": True,
        **changes,
    }
    return CacheSpec.model_validate(tree)


BUCKETS = ((16, 32), (16, 16), (32, 16))


def make_bucket_spec(**changes: Any) -> CacheSpec:
    """The same of images of three sizes."""
    return make_spec(schema_version=2, resolution_px=None, buckets=BUCKETS, **changes)


def make_samples(count: int, spec: CacheSpec, *, seed: int = 0) -> list[LatentSample]:
    """Samples with values that are exact in the spec's dtype."""
    generator = np.random.default_rng(seed)
    return [
        LatentSample(
            key=f"{index:016x}",
            raw_latents=generator.normal(size=_shape(spec, index)).astype(spec.dtype),
            input_ids=generator.integers(0, 49408, spec.embeds_shape[0]).astype(np.int32),
            prompt_embeds=generator.normal(size=spec.embeds_shape).astype(spec.dtype)
            if spec.prompt_embeds
            else None,
            caption=f"a drawing, número {index}",
            attributes={"row": index, "original_width": 640},
        )
        for index in range(count)
    ]


def _shape(spec: CacheSpec, index: int) -> tuple[int, int, int]:
    """Of many sizes the last are rare."""
    number = 0 if index % 3 else (index % 7 == 0) + (index % 5 == 0)
    return spec.latents_shapes[number if spec.buckets else 0]
