"""The generate step: a shard of prompts in, images with their facts and latents committed."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pipelines.prompts import PromptPlan, expand_rows, read_prompts
from pipelines.rows.caption_facts import EVERY_CAPTION_FACT, CaptionFactsConfig
from pipelines.run.cache_files import record_cache
from pipelines.run.manifest import Manifest, SpooledFile, commit_shard
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.run.versions import program_version
from pipelines.steps.generate.batches import group_rows
from pipelines.steps.generate.config import GenerateConfig, InitConfig
from pipelines.steps.generate.image_files import describe_parameters
from pipelines.steps.generate.image_spool import ImageSpool
from pipelines.steps.generate.init_images import InitImages
from pipelines.steps.generate.models import (
    GenerateModels,
    describe_cache,
    describe_versions,
    encode_empty_caption,
    load_generate_models,
)
from pipelines.steps.generate.paint import Painter
from pipelines.steps.generate.painted import DenoisedBatch
from pipelines.steps.generate.painting import Painting
from pipelines.steps.generate.rows import ImageRow, check_sources, resolve_rows
from pipelines.steps.generate.shard_files import METADATA, build_facts, metadata_table
from pipelines.steps.generate.source_pictures import SourcePictures
from pipelines.steps.model_worker import free_models, prepare_torch, record_models
from pipelines.steps.overlap import run_overlapped
from pipelines.steps.step import Resources
from sd_core.cache.spec import CacheSpec
from sd_core.model.caption_tokenizer import caption_tokenizer_of
from sd_core.model.latent_diffusion import LatentDiffusion

_OWN = [name for name in METADATA.names if name in ImageRow.__dataclass_fields__]


class GenerateStep:
    """Makes and commits shards of images.

    Args:
        store: The run.
        plan: Its prompts.
        fingerprint: Of everything that can change an image.
        torch_threads: Torch's threads in this worker.
    """

    name = "generate"

    def __init__(
        self,
        store: RunStore,
        plan: PromptPlan,
        *,
        fingerprint: str,
        config: GenerateConfig,
        torch_threads: int,
        caption_facts: CaptionFactsConfig = EVERY_CAPTION_FACT,
        resources: Resources | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self.resources = resources or Resources()
        self._store = store
        self._plan = plan
        self._config = config
        self._torch_threads = torch_threads
        self._caption_facts = caption_facts
        self._worker: _Worker | None = None

    def open(self) -> None:
        """Load the model and record what it is."""
        device = prepare_torch(self.resources, threads=self._torch_threads)
        models = load_generate_models(self._config, device=device)
        record_models(
            self._store, step=self.name, fingerprint=self.fingerprint, models=models.describe()
        )
        spec = describe_cache(models, self._config)
        if spec is not None:
            record_cache(
                self._store,
                step=self.name,
                fingerprint=self.fingerprint,
                spec=spec,
                empty_caption=encode_empty_caption(models),
            )
        init = self._config.init
        sources = None if init is None else open_sources(init, models.model)
        self._worker = _Worker(models, self._config, spec, sources)

    def close(self) -> None:
        """Drop the model, and close what rows started from."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None
        free_models()

    def rows_in(self, shard_id: int) -> int:
        """Images that the shard's prompts ask for, and refused prompts."""
        return self._plan.num_rows_of(shard_id)

    def run(self, shard_id: int) -> Manifest:
        """Make the shard's images and commit them."""
        worker = self._worker
        if worker is None:
            raise RuntimeError("open() comes before run()")
        rows = expand_rows(read_prompts(self._plan, self._store, shard_id), shard_id=shard_id)
        with spool_folder() as folder:
            files, facts = worker.make(rows, self._caption_facts, folder=folder)
            reasons = facts["reason"].drop_null().to_pylist()
            return commit_shard(
                self._store,
                step=self.name,
                fingerprint=self.fingerprint,
                shard_id=shard_id,
                files=files,
                rows_in=facts.num_rows,
                kept=facts.num_rows - len(reasons),
                dropped=Counter(reasons),
            )


def open_sources(init: InitConfig, model: LatentDiffusion) -> InitImages | SourcePictures:
    """What the model starts from: stored images where it enlarges them, else cached latents."""
    if model.task == "upscaling":
        return SourcePictures(init, enlargement=model.autoencoder.downsampling)
    return InitImages(init, model.identity)


class _Worker:
    """The loaded model, and what turns a shard's rows into local files."""

    def __init__(
        self,
        models: GenerateModels,
        config: GenerateConfig,
        spec: CacheSpec | None,
        sources: InitImages | SourcePictures | None,
    ) -> None:
        self._models = models
        self._config = config
        self._spec = spec
        self._sources = sources
        self._painter = Painter(models, config, sources)
        self._limits = models.limits(config)
        self._model_sha256 = models.model_sha256
        self._versions = describe_versions()

    def close(self) -> None:
        if self._sources is not None:
            self._sources.close()

    def make(
        self, rows: pa.Table, caption_facts: CaptionFactsConfig, *, folder: Path
    ) -> tuple[list[SpooledFile], pa.Table]:
        """Make the images; returns the finished local files and the facts."""
        resolved = list(resolve_rows(rows, self._config, self._limits, self._sources))
        images = [row for row in resolved if isinstance(row, ImageRow)]
        check_sources(resolved)
        spool = ImageSpool(self._config, self._spec, folder=folder)
        with spool:
            self._paint(images, spool)
        spool.check()
        facts = build_facts(rows, resolved, spool.made, caption_facts, failures=spool.failures)
        return spool.finish(facts, self._metadata(images, spool)), facts

    def _paint(self, images: Sequence[ImageRow], spool: ImageSpool) -> None:
        painting = Painting(self._painter, spool.failures)

        def store(denoised: Sequence[DenoisedBatch]) -> None:
            for painted in painting.decode(denoised):
                spool.add(painted, self._parameters)

        run_overlapped(
            painting.prepare(group_rows(images, batch_size=self._config.batch_size)),
            work=painting.denoise,
            write=store,
        )
        painting.finish()

    def _parameters(self, row: ImageRow) -> str | None:
        if not self._config.image.parameters:
            return None
        return describe_parameters(
            row,
            model=self._models.name,
            model_sha256=self._model_sha256,
            version=f"latent-foundry {program_version()}",
        )

    def _metadata(self, images: Sequence[ImageRow], spool: ImageSpool) -> pa.Table:
        schedulers = {row.sampler: self._models.scheduler(row.sampler) for row in images}
        made = [row for row in images if row.row in spool.made]
        tokenizer = caption_tokenizer_of(self._models.model.text_encoder)
        counts = tokenizer.count([row.prompt for row in made]).tolist()
        return metadata_table(
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
            ]
        )
