"""Small caches, as the encode step leaves them."""

import hashlib
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sd_core.cache.formats import format_of, open_shard_writer
from sd_core.cache.samples import EmptyCaption, LatentSample
from sd_core.cache.spec import CacheSpec
from tests.sd_core.cache.cases import make_samples


def write_cache(
    url: str, folder: Path, spec: CacheSpec, *, shard_rows: list[int], seed: int = 0
) -> list[LatentSample]:
    """Write `<url>/latents`; row r of all rows has key r. Shards are made in `folder` first."""
    filesystem, root = fsspec.core.url_to_fs(f"{url}/latents")
    filesystem.makedirs(root, exist_ok=True)
    samples = make_samples(sum(shard_rows), spec, seed=seed)
    rows: list[dict[str, Any]] = []
    first = 0
    for shard_id, count in enumerate(shard_rows):
        local = folder / f"shard-{seed}{format_of(spec).suffix}"
        with open_shard_writer(local, spec) as writer:
            ours = sorted(samples[first : first + count], key=lambda one: _bucket(one, spec))
            for sample in ours:
                writer.write(sample)
        first += count
        content = local.read_bytes()
        local.unlink()
        sha256 = hashlib.sha256(content).hexdigest()
        name = f"latents/{shard_id:06d}-{sha256[:16]}{format_of(spec).suffix}"
        filesystem.pipe_file(f"{root.rpartition('/')[0]}/{name}", content)
        rows.append(
            {
                "shard_id": shard_id,
                "path": name,
                "sha256": sha256,
                "num_bytes": len(content),
                "num_rows": count,
                **_by_bucket(ours, spec),
            }
        )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    filesystem.pipe_file(f"{root}/index.parquet", bytes(sink.getvalue()))
    filesystem.pipe_file(f"{root}/spec.json", spec.to_json())
    filesystem.pipe_file(f"{root}/empty_caption.safetensors", make_empty_caption(spec).to_bytes())
    return samples


def _bucket(sample: LatentSample, spec: CacheSpec) -> int:
    return spec.latents_shapes.index(sample.raw_latents.shape)


def _by_bucket(samples: list[LatentSample], spec: CacheSpec) -> dict[str, list[int]]:
    if not spec.buckets:
        return {}
    buckets = [_bucket(sample, spec) for sample in samples]
    return {"bucket_rows": [buckets.count(number) for number in range(len(spec.buckets))]}


def make_empty_caption(spec: CacheSpec) -> EmptyCaption:
    """Zeros that fit the spec."""
    length, dim = spec.embeds_shape
    return EmptyCaption(
        input_ids=np.zeros(length, np.int32),
        prompt_embeds=np.zeros((length, dim), np.float32),
        pooled_prompt_embeds=np.zeros(dim, np.float32),
    )


def reindex(folder: Path) -> None:
    """Make a local cache's index say what its shards' files now are."""
    path = folder / "index.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        content = (folder.parent / row["path"]).read_bytes()
        row["num_bytes"], row["sha256"] = len(content), hashlib.sha256(content).hexdigest()
    pq.write_table(pa.Table.from_pylist(rows), path)
