"""The encode step: the kept rows of a few download shards in, one latent shard committed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.rows.failures import Isolation, made_ahead
from pipelines.run.cache_files import record_cache
from pipelines.run.committed import Committed
from pipelines.run.images import FACTS, StoredImage, batches_of_one_size, stack_pixels
from pipelines.run.manifest import Manifest, ShardError
from pipelines.run.rows_done import rows_done
from pipelines.run.shard_inputs import encode_inputs, grouped_shards, kept_captions
from pipelines.run.spool_folder import spool_folder
from pipelines.steps.encode.encode import (
    BatchInputs,
    EncodeConfig,
    EncodeModels,
    batch_inputs,
    describe_cache,
    encode_batch,
    encode_empty_caption,
    load_encode_models,
    pixels_for,
)
from pipelines.steps.encode.rows import EncodedImages, Rejects, write_batch
from pipelines.steps.encode.stored import commit_latents
from pipelines.steps.model_worker import ModelStep, free_models
from pipelines.steps.step import ShardWork
from sd_core.cache.formats import format_of, open_shard_writer
from sd_core.cache.spec import CacheSpec
from sd_core.model.buckets import Bucket
from sd_core.model.precision import auto_is
from sd_core.model.transfer import Transfers


@dataclass(kw_only=True, eq=False)
class EncodeStep(ModelStep):
    """Encodes and commits latent shards; arguments beside those of `ModelStep`:

    Args:
        images: The step that made the images.
        verdicts: The select step.
        num_image_shards: How many shards of images there are.
        sizes: That the stored crops may have.
        options_digest: `StepIdentity.options_digest`, by which later revisions reuse shards.
    """

    name = "encode"

    images: Committed
    verdicts: Committed
    num_image_shards: int
    config: EncodeConfig
    sizes: tuple[Bucket, ...]
    options_digest: str = ""
    _models: EncodeModels | None = field(default=None, init=False)
    _spec: CacheSpec | None = field(default=None, init=False)

    def open(self) -> None:
        """Load the models and record what cache they make."""
        device = self._device()
        own = self.config.autoencoder.precision
        with auto_is(self._recorded_dtype("dtype" if own == "auto" else "text_dtype")):
            models = load_encode_models(self.config, device=device)
        spec = describe_cache(models, self.config, sizes=self.sizes)
        self._record(
            models.describe(),
            batch_size=self.config.batch_size,
            attempt=partial(_attempt, models, max(self.sizes, key=lambda s: s.width * s.height)),
        )
        record_cache(self.made, spec=spec, empty_caption=encode_empty_caption(models))
        self._models, self._spec = models, spec

    def close(self) -> None:
        self._models = self._spec = None
        free_models()

    def rows_in(self, shard_id: int) -> int:
        return sum(self.verdicts.manifest(part).kept for part in self.parts(shard_id))

    def is_light(self, shard_id: int) -> bool:
        """Whether select kept no row of it."""
        return not self.rows_in(shard_id)

    def run(self, shard_id: int) -> Manifest:
        """Take a shard to its commit; one without rows needs no models, and holds no file."""
        if self._models is None and self.is_light(shard_id):
            none = {part: dict[str, str | None]() for part in self.parts(shard_id)}
            return self.commit(shard_id, path=Path("none"), num_written=0, rejects=(), kept=none)
        return super().run(shard_id)

    def begin(self, shard_id: int) -> "_EncodeShard":
        """The kept rows of the shard's parts, on their way into a latent shard."""
        if self._models is None or self._spec is None:
            raise RuntimeError("open() comes before run()")
        return _EncodeShard(self, shard_id, models=self._models, spec=self._spec)

    def parts(self, shard_id: int) -> range:
        """The shards of images that a latent shard is made of."""
        group = self.config.download_shards_per_file
        return grouped_shards(shard_id, group=group, num_shards=self.num_image_shards)

    def commit(
        self,
        shard_id: int,
        *,
        path: Path,
        num_written: int,
        rejects: Sequence[dict[str, Any]],
        kept: Mapping[int, Mapping[str, str | None]],
        bucket_rows: tuple[int, ...] | None = None,
    ) -> Manifest:
        """Publish a finished local shard and the rows that were refused.

        Args:
            bucket_rows: `ShardWriter.bucket_rows`.
            kept: `kept_rows` of each of its parts.
        """
        return commit_latents(
            self,
            shard_id=shard_id,
            path=path,
            num_written=num_written,
            bucket_rows=bucket_rows,
            rejects=rejects,
            inputs=encode_inputs(
                self.images,
                self.verdicts,
                options=self.options_digest,
                shards=self.parts(shard_id),
                read=kept,
            ),
        )


class _EncodeShard(ShardWork["_Images", "list[EncodedImages]"]):
    """One latent shard on its way."""

    def __init__(
        self, step: EncodeStep, shard_id: int, *, models: EncodeModels, spec: CacheSpec
    ) -> None:
        super().__init__()
        self._step = step
        self._shard_id = shard_id
        self._models = models
        self._transfers = Transfers(models.autoencoder.device)
        self._whole: _Images | None = None
        self._rejects = Rejects()
        self._kept: dict[int, dict[str, str | None]] = {}
        self._isolation = Isolation(
            self._encode, key_of=lambda image: image.facts["key"], failures=self._rejects.failures
        )
        folder = self.enter_context(spool_folder())
        self._path = folder / f"latents{format_of(spec).suffix}"
        self._writing = self.enter_context(ExitStack())
        self._writer = self._writing.enter_context(open_shard_writer(self._path, spec))

    def read(self) -> Iterator["_Images"]:
        """Batches of the kept images, each of one size."""
        for batch in batches_of_one_size(self._kept_images(), size=self._step.batch_size):
            yield _Images(images=batch, inputs=made_ahead(self._prepare, batch))

    def compute(self, batch: "_Images") -> "list[EncodedImages]":
        """The latents and embeddings of a batch; in parts where a row of it fails."""
        self._whole = batch
        return self._isolation.run(batch.images)

    def write(self, parts: "Sequence[EncodedImages]") -> None:
        """Put them into the local shard."""
        for part in parts:
            write_batch(part, self._writer, self._rejects)
            rows_done.add(len(part.images))

    def commit(self) -> Manifest:
        """Publish the shard."""
        self._isolation.finish()
        self._writing.close()
        return self._step.commit(
            self._shard_id,
            path=self._path,
            num_written=self._writer.num_written,
            bucket_rows=self._writer.bucket_rows,
            rejects=self._rejects.rows(),
            kept=self._kept,
        )

    def _kept_images(self) -> Iterator[StoredImage]:
        rejects, images = self._rejects, self._step.images
        for part in self._step.parts(self._shard_id):
            columns = (*FACTS, "kept", "recaption")
            ledger = self._step.verdicts.table(part, "ledger", columns=columns)
            kept = self._kept[part] = {} if ledger is None else kept_captions(ledger)
            if ledger is None or not kept:
                continue
            rows = ledger.filter(ledger["kept"]).select(FACTS).to_pylist()
            found = len(rejects.seen)
            refuse = partial(rejects.undecodable, part)
            for image in images.images(
                part,
                keys=frozenset(kept),
                on_failure=refuse,
                rows=rows,
                num_threads=self._step.decode_threads,
            ):
                image.facts["shard_id"] = part
                image.facts["caption"] = kept[image.facts["key"]] or image.facts["caption"]
                rejects.seen.append(image.facts)
                yield image
            found = len(rejects.seen) - found
            if found != len(kept):
                raise ShardError(
                    f"{images.step} shard {part}: select kept {len(kept)} rows, {found} have images"
                )

    def _prepare(self, images: Sequence[StoredImage]) -> BatchInputs:
        batch_size = self._step.batch_size
        height, width, _ = images[0].pixels.shape
        size = Bucket(width=width, height=height)
        if size not in self._step.sizes:
            raise ValueError(f"{width}x{height} is no size of the cache")
        pixels = pixels_for(
            self._models,
            len(images),
            size=size,
            batch_size=batch_size,
            transfers=self._transfers,
        )
        stack_pixels(images, out=pixels.numpy(), where="encode")
        return batch_inputs(
            self._models,
            pixels,
            captions=[image.facts["caption"] or "" for image in images],
            batch_size=batch_size,
            transfers=self._transfers,
        )

    def _encode(self, images: Sequence[StoredImage]) -> "EncodedImages":
        whole = self._whole
        ahead = whole.inputs if whole is not None and whole.images is images else None
        encoding = encode_batch(self._models, ahead or self._prepare(images), self._transfers)
        return EncodedImages(images, encoding)


@dataclass(frozen=True, kw_only=True)
class _Images:
    """Images, and what is sent of them to the device."""

    images: Sequence[StoredImage]
    inputs: BatchInputs | None


def _attempt(models: EncodeModels, size: Bucket, batch_size: int) -> None:
    transfers = Transfers(models.autoencoder.device)
    pixels = pixels_for(models, batch_size, size=size, batch_size=batch_size, transfers=transfers)
    inputs = batch_inputs(
        models,
        pixels.zero_(),
        captions=[""] * batch_size,
        batch_size=batch_size,
        transfers=transfers,
    )
    encode_batch(models, inputs, transfers).take()
