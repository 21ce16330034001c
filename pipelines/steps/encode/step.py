"""The encode step: the kept rows of a few download shards in, one latent shard committed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from pipelines.rows.failures import Failures, Isolation, failed_rows, reject
from pipelines.run.cache_files import record_cache
from pipelines.run.images import StoredImage, batches, iterate_images, stack_pixels
from pipelines.run.manifest import Manifest, ShardError, read_manifest
from pipelines.run.shard_inputs import encode_inputs, grouped_shards, kept_keys
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.steps.encode.commit import NOT_FINITE, commit_latents
from pipelines.steps.encode.encode import (
    EncodeConfig,
    EncodedBatch,
    EncodeModels,
    describe_cache,
    encode_batch,
    encode_empty_caption,
    load_encode_models,
)
from pipelines.steps.model_worker import free_models, prepare_torch, record_models
from pipelines.steps.overlap import run_overlapped
from pipelines.steps.step import Resources
from sd_core.cache.samples import LatentSample
from sd_core.cache.shards import SUFFIXES, ShardWriter, open_shard_writer
from sd_core.cache.spec import CacheSpec

_ATTRIBUTES = ("row", "sha256", "original_width", "original_height", "width", "height")


class EncodeStep:
    """Encodes and commits latent shards.

    Args:
        store: The run.
        fingerprint: Of everything that can change the result.
        download: Fingerprint of the download step.
        select: Fingerprint of the select step.
        num_download_shards: How many download shards there are.
        image_size: Side of the stored crops.
        options_digest: `StepIdentity.options_digest`, by which later revisions reuse shards.
        torch_threads: Torch's threads in this worker.
    """

    name = "encode"

    def __init__(
        self,
        store: RunStore,
        *,
        fingerprint: str,
        download: str,
        select: str,
        num_download_shards: int,
        config: EncodeConfig,
        image_size: int,
        torch_threads: int,
        options_digest: str = "",
        resources: Resources | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self.resources = resources or Resources()
        self._store = store
        self._download = download
        self._select = select
        self._num_download_shards = num_download_shards
        self._config = config
        self._image_size = image_size
        self._torch_threads = torch_threads
        self._options_digest = options_digest
        self._models: EncodeModels | None = None
        self._spec: CacheSpec | None = None

    def open(self) -> None:
        """Load the models and record what cache they make."""
        device = prepare_torch(self.resources, threads=self._torch_threads)
        models = load_encode_models(self._config, device=device)
        spec = describe_cache(models, self._config, resolution_px=self._image_size)
        record_models(
            self._store, step=self.name, fingerprint=self.fingerprint, models=models.describe()
        )
        record_cache(
            self._store,
            fingerprint=self.fingerprint,
            spec=spec,
            empty_caption=encode_empty_caption(models),
        )
        self._models, self._spec = models, spec

    def close(self) -> None:
        """Drop the models."""
        self._models = self._spec = None
        free_models()

    def rows_in(self, shard_id: int) -> int:
        """Rows that select kept."""
        return sum(self._ledger_manifest(source).kept for source in self._download_shards(shard_id))

    def run(self, shard_id: int) -> Manifest:
        """Encode the kept rows of the shard's download shards and commit them."""
        if self._spec is None:
            raise RuntimeError("open() comes before run()")
        rejects = Rejects()
        isolation = Isolation(
            self._encode, key_of=lambda image: image.facts["key"], failures=rejects.failures
        )
        with spool_folder() as folder:
            path = folder / f"latents{SUFFIXES[self._spec.format]}"
            with open_shard_writer(path, self._spec) as writer:
                run_overlapped(
                    self._read(shard_id, rejects),
                    work=isolation.run,
                    write=lambda parts: _write_batches(parts, writer, rejects),
                )
            isolation.finish()
            return commit_latents(
                self._store,
                fingerprint=self.fingerprint,
                shard_id=shard_id,
                path=path,
                num_written=writer.num_written,
                rejects=rejects.rows(),
                inputs=encode_inputs(
                    self._store,
                    options=self._options_digest,
                    download=self._download,
                    select=self._select,
                    shards=self._download_shards(shard_id),
                ),
            )

    def _read(self, shard_id: int, rejects: "Rejects") -> Iterator[Sequence[StoredImage]]:
        images = self._kept_images(shard_id, rejects)
        yield from batches(images, size=self._config.batch_size)

    def _kept_images(self, shard_id: int, rejects: "Rejects") -> Iterator[StoredImage]:
        for source in self._download_shards(shard_id):
            keys = frozenset(kept_keys(self._store, self._ledger_manifest(source)))
            if not keys:
                continue
            found = len(rejects.seen)
            for image in iterate_images(
                self._store,
                download=self._download,
                shard_id=source,
                keys=keys,
                on_failure=partial(rejects.undecodable, source),
            ):
                image.facts["shard_id"] = source
                rejects.seen.append(image.facts)
                yield image
            found = len(rejects.seen) - found
            if found != len(keys):
                raise ShardError(
                    f"download shard {source}: select kept {len(keys)} rows, {found} have images"
                )

    def _encode(self, images: Sequence[StoredImage]) -> "_Batch":
        if self._models is None:
            raise RuntimeError("open() comes before run()")
        for image in images:
            if image.pixels.shape != (self._image_size, self._image_size, 3):
                height, width, _ = image.pixels.shape
                raise ValueError(f"{width}x{height}, the cache holds {self._image_size} px")
        pixels = stack_pixels(images, batch_size=len(images), where="encode")
        encoded = encode_batch(
            self._models,
            torch.from_numpy(pixels),
            captions=[image.facts["caption"] or "" for image in images],
            batch_size=self._config.batch_size,
        )
        return _Batch(images, encoded)

    def _download_shards(self, shard_id: int) -> range:
        group = self._config.download_shards_per_file
        return grouped_shards(shard_id, group=group, num_shards=self._num_download_shards)

    def _ledger_manifest(self, shard_id: int) -> Manifest:
        manifest = read_manifest(self._store, "select", self._select, shard_id)
        if manifest is None:
            raise ShardError(f"select shard {shard_id} is not committed; run that step first")
        return manifest


@dataclass(frozen=True)
class _Batch:
    """Images with what they were encoded to."""

    images: Sequence[StoredImage]
    encoded: EncodedBatch


@dataclass
class Rejects:
    """The rows of a shard that encode was given, and those that it refuses."""

    seen: list[dict[str, Any]] = field(default_factory=list)
    failures: Failures = field(default_factory=dict)
    not_finite: set[str] = field(default_factory=set)

    def undecodable(self, shard_id: int, facts: dict[str, Any], error: Exception) -> None:
        """Take a row whose stored image does not decode."""
        self.seen.append({**facts, "shard_id": shard_id})
        self.failures[facts["key"]] = error

    def rows(self) -> list[dict[str, Any]]:
        """Rows of `REJECTS`, in the order of the images."""
        found = failed_rows(self.seen, self.failures)
        found += [
            reject(row, reason="latents_not_finite", message=NOT_FINITE)
            for row in self.seen
            if row["key"] in self.not_finite
        ]
        place = {row["key"]: number for number, row in enumerate(self.seen)}
        return sorted(found, key=lambda row: place[row["key"]])


def _write_batches(batches: Sequence[_Batch], writer: ShardWriter, rejects: Rejects) -> None:
    for batch in batches:
        _write_batch(batch, writer, rejects)


def _write_batch(batch: _Batch, writer: ShardWriter, rejects: Rejects) -> None:
    encoded = batch.encoded
    for index, image in enumerate(batch.images):
        facts = image.facts
        sample = LatentSample(
            key=facts["key"],
            raw_latents=encoded.raw_latents[index].numpy(),
            input_ids=encoded.input_ids[index].numpy(),
            prompt_embeds=None
            if encoded.prompt_embeds is None
            else encoded.prompt_embeds[index].numpy(),
            caption=facts["caption"] or "",
            attributes={"shard_id": facts["shard_id"], **{n: facts[n] for n in _ATTRIBUTES}},
        )
        if not writer.write(sample):
            rejects.not_finite.add(facts["key"])
