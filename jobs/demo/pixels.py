"""Checks on the pixels of a run: what every stored image is, and what its latents decode to."""

import io
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image

from jobs.demo.outcome import list_shards
from pipelines.run.images import damaged, image_bytes
from pipelines.run.store import RunStore
from sd_core.cache.formats import iterate_shard
from sd_core.cache.latents import posterior_mean
from sd_core.cache.samples import LatentSample
from sd_core.cache.spec import CacheSpec, read_spec
from sd_core.model.autoencoder import decode_latents, load_autoencoder
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.tar_members import iterate_members


def _iterate_files(store: RunStore) -> Iterator[tuple[str, bytes]]:
    """Key and file of every stored image of the current revision, in plan order."""
    for path in list_shards(store, "images"):
        with store.open(path) as stream:
            members = iterate_members(stream, fault=damaged(path), max_bytes=image_bytes)
            yield from ((each.key, each.content) for each in members if each.content is not None)


def read_images(store: RunStore, keys: Iterable[str]) -> dict[str, bytes]:
    """The stored files of these rows, by key; a row without an image is left out."""
    wanted = set(keys)
    return {key: content for key, content in _iterate_files(store) if key in wanted}


def describe_other_images(store: RunStore, *, size: int) -> list[str]:
    """One line for each stored image that does not decode to size x size RGB of 8 bits."""
    faults = []
    for key, content in _iterate_files(store):
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if image.mode != "RGB" or image.size != (size, size):
                faults.append(f"{key}: {image.mode} {image.width}x{image.height}")
    return faults


def measure_psnr(store: RunStore, autoencoder: AutoencoderConfig, *, count: int) -> list[float]:
    """Decode the first latents of a run's cache and compare them with the stored images.

    Args:
        store: The run; its latents are `mean` or `moments` of this autoencoder.
        autoencoder: The one that encoded them.
        count: How many to decode; fewer where the cache has fewer.

    Returns:
        PSNR of each in dB, of 8-bit RGB.
    """
    samples = _first_samples(store, count)
    images = read_images(store, (sample.key for sample in samples))
    loaded = load_autoencoder(autoencoder, device="cpu")
    values = []
    for sample in samples:
        raw_latents = torch.from_numpy(sample.raw_latents.astype(np.float32))[None]
        if raw_latents.shape[1] == 2 * loaded.latent_channels:
            raw_latents = posterior_mean(raw_latents)
        decoded = decode_latents(loaded, raw_latents)[0].permute(1, 2, 0)
        with Image.open(io.BytesIO(images[sample.key])) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
        values.append(_psnr(pixels, (decoded.numpy().astype(np.float64) + 1) * 127.5))
    return values


def _first_samples(store: RunStore, count: int) -> list[LatentSample]:
    spec = read_spec(store.read_bytes("latents/spec.json"), where="latents/spec.json")
    samples: list[LatentSample] = []
    for sample in _iterate_samples(store, spec):
        if len(samples) == count:
            break
        samples.append(sample)
    return samples


def _iterate_samples(store: RunStore, spec: CacheSpec) -> Iterator[LatentSample]:
    for path in list_shards(store, "latents"):
        with store.open(path) as stream:
            yield from iterate_shard(stream, spec, name=path)


def _psnr(reference: np.ndarray, found: np.ndarray) -> float:
    error = float(np.mean((reference - np.clip(np.rint(found), 0, 255)) ** 2))
    return 10 * math.log10(255.0**2 / error) if error else math.inf
