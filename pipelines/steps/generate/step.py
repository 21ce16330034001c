"""The generate step: a shard of prompts in, images with their facts and latents committed."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import pyarrow as pa

from pipelines.prompts import PromptPlan, read_left_rows
from pipelines.rows.caption_facts import EVERY_CAPTION_FACT, CaptionFactsConfig
from pipelines.rules.tombstones import Tombstones, read_tombstones
from pipelines.run.cache_files import record_cache
from pipelines.run.manifest import Manifest, SpooledFile
from pipelines.run.rows_done import rows_done
from pipelines.run.spool_folder import spool_folder
from pipelines.run.versions import program_version
from pipelines.steps.generate.batches import RowBatch, group_rows
from pipelines.steps.generate.config import GenerateConfig, InitConfig
from pipelines.steps.generate.image_files import describe_parameters
from pipelines.steps.generate.image_spool import ImageSpool
from pipelines.steps.generate.init_images import InitImages
from pipelines.steps.generate.models import (
    GenerateModels,
    describe_generated_cache,
    describe_versions,
    empty_caption_of,
    load_generate_models,
)
from pipelines.steps.generate.paint import Painter, try_batch
from pipelines.steps.generate.painted import DenoisedBatch, PreparedBatch
from pipelines.steps.generate.painting import Painting
from pipelines.steps.generate.rows import ImageRow, RefusedRow, check_sources, resolve_rows
from pipelines.steps.generate.shard_files import METADATA, generation_facts
from pipelines.steps.generate.source_pictures import SourcePictures
from pipelines.steps.model_worker import ModelStep, free_models, record_models
from pipelines.steps.step import ShardWork
from sd_core.cache.spec import CacheSpec
from sd_core.model.caption_tokenizer import caption_tokenizer_of
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.precision import auto_is

_GPU_ROWS = 32
_OWN = [name for name in METADATA.names if name in ImageRow.__dataclass_fields__]


@dataclass(kw_only=True, eq=False)
class GenerateStep(ModelStep):
    """Makes and commits shards of images; arguments beside those of `ModelStep`:

    Args:
        plan: The run's prompts.
        caption_facts: What is measured on them.
    """

    name = "generate"

    plan: PromptPlan = field(kw_only=False)
    config: GenerateConfig
    caption_facts: CaptionFactsConfig = EVERY_CAPTION_FACT
    _worker: "ImageMaker | None" = field(default=None, init=False)

    def open(self) -> None:
        """Load the model and record what it is."""
        device = self._device()
        model = self.config.model
        is_auto = (model.denoiser or model).precision == "auto"
        with auto_is(self._recorded_dtype() if is_auto else None):
            models = load_generate_models(self.config, device=device)
        config = self._fixed(models)
        spec = describe_generated_cache(models, self.config)
        if spec is not None:
            record_cache(self.made, spec=spec, empty_caption=empty_caption_of(models))
        init = self.config.init
        sources = None if init is None else open_sources(init, models.model)
        self._worker = ImageMaker(models, config, spec, sources)

    def _fixed(self, models: GenerateModels) -> GenerateConfig:
        """The configuration with a batch size that is a number; the models are recorded."""
        if self.config.batch_size != "auto":
            record_models(self.made, models.describe())
            return self.config
        rows = _GPU_ROWS if models.device.type == "cuda" else self.config.rows_at_once
        self._record(
            models.describe(), batch_size=rows, attempt=partial(try_batch, models, self.config)
        )
        return self.config.model_copy(update={"batch_size": self.batch_size})

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None
        free_models()

    def rows_in(self, shard_id: int) -> int:
        """Images that the shard's prompts ask for, and refused prompts."""
        return self.plan.num_rows_of(shard_id)

    def begin(self, shard_id: int) -> "_GenerateShard":
        """The images of a shard's prompts, on their way."""
        if self._worker is None:
            raise RuntimeError("open() comes before run()")
        return _GenerateShard(self, self._worker, shard_id)

    def read_rows(self, shard_id: int) -> pa.Table:
        """A row for each image that the shard's prompts ask for, or asked for before it was taken
        down."""
        return read_left_rows(self.plan, self.store, shard_id, self._tombstones)

    @cached_property
    def _tombstones(self) -> Tombstones:
        return read_tombstones(self.store)

    def commit(self, shard_id: int, files: Sequence[SpooledFile], facts: pa.Table) -> Manifest:
        """Publish finished local files and the shard's facts among them."""
        reasons = facts["reason"].drop_null().to_pylist()
        kept = facts.num_rows - len(reasons)
        return self.commit_shard(shard_id, files, kept=kept, reasons=reasons)


class _GenerateShard(ShardWork[PreparedBatch, Sequence[DenoisedBatch]]):
    """One shard on its way."""

    def __init__(self, step: GenerateStep, worker: "ImageMaker", shard_id: int) -> None:
        super().__init__()
        self._step = step
        self._worker = worker
        self._shard_id = shard_id
        self._rows = step.read_rows(shard_id)
        self._resolved = worker.resolve(self._rows)
        self._images = [row for row in self._resolved if isinstance(row, ImageRow)]
        self._spooling = ExitStack()
        self._spool = worker.open_spool(self.enter_context(spool_folder()))
        self.enter_context(self._spooling).enter_context(self._spool)
        self._painting = Painting(worker.painter, self._spool.failures)

    def read(self) -> Iterator[PreparedBatch]:
        """Texts and sources of each batch."""
        yield from self._painting.prepare(self._worker.group(self._images))

    def compute(self, batch: PreparedBatch) -> Sequence[DenoisedBatch]:
        return self._painting.denoise(batch)

    def write(self, denoised: Sequence[DenoisedBatch]) -> None:
        """Their images, as local files."""
        for painted in self._painting.decode(denoised):
            self._spool.add(painted, self._worker.parameters)
            rows_done.add(1)

    def commit(self) -> Manifest:
        """Publish the shard."""
        self._painting.finish()
        self._spooling.close()
        spool, step = self._spool, self._step
        spool.check()
        facts = generation_facts(
            self._rows, self._resolved, spool.made, step.caption_facts, failures=spool.failures
        )
        metadata = self._worker.metadata(self._images, spool)
        return step.commit(self._shard_id, spool.finish(facts, metadata), facts)


def open_sources(init: InitConfig, model: LatentDiffusion) -> InitImages | SourcePictures:
    """What the model starts from: stored images where it enlarges them, else cached latents."""
    if model.task == "upscaling":
        return SourcePictures(init, enlargement=model.autoencoder.downsampling)
    return InitImages(init, model.identity)


class ImageMaker:
    """The loaded model, and what it makes of a shard's rows."""

    def __init__(
        self,
        models: GenerateModels,
        config: GenerateConfig,
        spec: CacheSpec | None,
        sources: InitImages | SourcePictures | None,
    ) -> None:
        self.painter = Painter(models, config, sources)
        self._models = models
        self._config = config
        self._spec = spec
        self._sources = sources
        self._limits = models.limits(config)
        self._model_sha256 = models.model_sha256
        self._versions = describe_versions()

    def close(self) -> None:
        if self._sources is not None:
            self._sources.close()

    def resolve(self, rows: pa.Table) -> list[ImageRow | RefusedRow]:
        """Each row as an image to make, or with the reason why not."""
        resolved = list(resolve_rows(rows, self._config, self._limits, self._sources))
        check_sources(resolved)
        return resolved

    def open_spool(self, folder: Path) -> ImageSpool:
        """Where a shard's images wait."""
        return ImageSpool(self._config, self._spec, folder=folder)

    def group(self, images: Sequence[ImageRow]) -> Iterator[RowBatch]:
        """Batches of images that are made alike."""
        return group_rows(images, batch_size=self._config.rows_at_once)

    def parameters(self, row: ImageRow) -> str | None:
        """What an image's file says of how it was made; None where it is to say nothing."""
        if not self._config.image.parameters:
            return None
        return describe_parameters(
            row,
            model=self._models.name,
            model_sha256=self._model_sha256,
            version=f"latent-foundry {program_version()}",
        )

    def metadata(self, images: Sequence[ImageRow], spool: ImageSpool) -> pa.Table:
        """How each image was made, which is itself a list of prompts."""
        schedulers = {row.sampler: self._models.scheduler(row.sampler) for row in images}
        made = [row for row in images if row.row in spool.made]
        tokenizer = caption_tokenizer_of(self._models.model.text_encoder)
        counts = tokenizer.count([row.prompt for row in made]).tolist()
        return pa.Table.from_pylist(
            [
                {
                    **{name: getattr(row, name) for name in _OWN},
                    "image_key": row.key,
                    "key": row.prompt_key,
                    "guidance_rescale": self._config.guidance_rescale,
                    "batch_size": spool.made[row.row].batch_size,
                    "sha256": spool.made[row.row].sha256,
                    "model": self._models.name,
                    "model_sha256": self._model_sha256,
                    "scheduler": schedulers[row.sampler][0],
                    "scheduler_sha256": schedulers[row.sampler][1],
                    "versions": self._versions,
                    "caption_tokens": tokens,
                    "caption_is_cut": tokens > tokenizer.max_tokens,
                }
                for row, tokens in zip(made, counts, strict=True)
            ],
            schema=METADATA,
        )
