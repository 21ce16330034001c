"""A shard's images and latents on local disk, in the order they come, until all are made."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.rows.failures import Failures, is_of_everything
from pipelines.rows.image_facts import measure_image
from pipelines.run.cache_files import LATENTS_FOLDER
from pipelines.run.manifest import SpooledFile
from pipelines.run.spool import CropSpool
from pipelines.steps.generate.config import GenerateConfig
from pipelines.steps.generate.image_files import encode_image, fit_parameters
from pipelines.steps.generate.painted import PaintedBatch
from pipelines.steps.generate.rows import ImageRow
from pipelines.steps.generate.shard_files import MadeImage, write_image_files
from pipelines.steps.left_rows import spool_table
from sd_core.cache.formats import format_of, open_shard_writer
from sd_core.cache.samples import LatentSample
from sd_core.cache.shard_format import ShardWriter
from sd_core.cache.spec import CacheSpec

_MOST_THREADS: Final = 8  # which write 250 images of 512 px a second


class ImageSpool:
    """Takes painted batches; a context manager while it does.

    Args:
        spec: Of the cache that the latents go to, where they are kept.
        folder: An empty local folder; the caller removes it.

    Attributes:
        made: By row number, the images that are stored.
        failures: Rows of which no file could be made, each by itself.
    """

    def __init__(self, config: GenerateConfig, spec: CacheSpec | None, *, folder: Path) -> None:
        self._config = config
        self._spec = spec
        self._folder = folder
        self._images = CropSpool(folder / "images.spool")
        self._latents: ShardWriter | None = None
        self._stack = ExitStack()
        self._pool: ThreadPoolExecutor | None = None
        self._writing: list[tuple[ImageRow, Future[None]]] = []
        self.failures: Failures = {}
        self.made: dict[int, MadeImage] = {}

    def __enter__(self) -> Self:
        if self._spec is not None:
            writer = open_shard_writer(self._latents_path(self._spec), self._spec)
            self._latents = self._stack.enter_context(writer)
        threads = self._config.encode_threads or min(_MOST_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, "image-files")
        self._stack.callback(self._pool.shutdown, cancel_futures=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        is_whole = False
        try:
            if kind is not None:
                self._stack.__exit__(kind, error, trace)
                return
            with self._stack:
                self._wait()
            is_whole = True
        finally:
            if not is_whole:
                self._images.close()  # else `finish` still reads it

    def add(self, painted: PaintedBatch, parameters: Callable[[ImageRow], str | None]) -> None:
        """Store a batch; the files' bytes are made while the next one is decoded.

        Args:
            parameters: What is written into a row's file.
        """
        self._wait()
        assert self._pool is not None
        for at, row in enumerate(painted.batch.rows):
            if not painted.is_finite[at]:
                continue
            try:
                text = parameters(row)
                self._write_latents(painted, at)
            except Exception as error:
                self._refuse(row, error)
                continue
            pixels = painted.images[at].numpy()
            size = painted.batch_sizes[at]
            future = self._pool.submit(self._store, row, pixels, text, size)
            self._writing.append((row, future))

    def _write_latents(self, painted: PaintedBatch, at: int) -> None:
        row, spec = painted.batch.rows[at], self._spec
        if spec is not None and (row.width, row.height) in spec.sizes:
            assert self._latents is not None
            self._latents.write(_sample(painted, at))

    def _refuse(self, row: ImageRow, error: Exception) -> None:
        if is_of_everything(error):
            raise error
        self.failures[row.key] = error

    def check(self) -> None:
        """After the context has ended: raise the first error where no image at all was stored."""
        if self.failures and not self.made:
            self._images.close()
            raise next(iter(self.failures.values()))

    def finish(self, facts: pa.Table, metadata: pa.Table) -> list[SpooledFile]:
        """Write the tar and the tables; after the context has ended."""
        files = [spool_table(facts, self._folder, "facts/generate")]
        tar = self._folder / "images.tar"
        extension = self._config.image.format
        cut = {row for row, made in self.made.items() if made.parameters_are_cut}
        count = write_image_files(facts, spool=self._images, path=tar, extension=extension, cut=cut)
        self._images.close()
        if count:
            files.append(SpooledFile(folder="images", path=tar, num_rows=count))
            files.append(spool_table(metadata, self._folder, "metadata"))
        if self._spec is not None and self._latents is not None and self._latents.num_written:
            latents = self._latents_path(self._spec)
            files.append(
                SpooledFile(
                    folder=LATENTS_FOLDER,
                    path=latents,
                    num_rows=self._latents.num_written,
                    bucket_rows=self._latents.bucket_rows,
                )
            )
        return files

    def _store(
        self,
        row: ImageRow,
        pixels: npt.NDArray[np.uint8],
        parameters: str | None,
        batch_size: int,
    ) -> None:
        try:
            content = encode_image(pixels, self._config.image, parameters=parameters)
        except OSError as error:  # made in memory: the picture is at fault, no storage
            raise ValueError(f"the image file cannot be made: {error}") from error
        self._images.add(row.row, content)
        digest = hashlib.sha256(content).hexdigest()
        facts = measure_image(pixels, self._config.facts)
        is_cut = (
            parameters is not None and fit_parameters(parameters, self._config.image) != parameters
        )
        self.made[row.row] = MadeImage(
            sha256=digest, batch_size=batch_size, facts=facts, parameters_are_cut=is_cut
        )

    def _wait(self) -> None:
        writing, self._writing = self._writing, []
        for row, future in writing:
            error = future.exception()
            if isinstance(error, Exception):
                self._refuse(row, error)
            elif error is not None:
                raise error

    def _latents_path(self, spec: CacheSpec) -> Path:
        return self._folder / f"latents{format_of(spec).suffix}"


def _sample(painted: PaintedBatch, at: int) -> LatentSample:
    row, text = painted.batch.rows[at], painted.batch.prompts[at]
    return LatentSample(
        key=row.key,
        raw_latents=painted.raw_latents[at].numpy(),
        input_ids=text.input_ids.numpy(),
        prompt_embeds=text.prompt_embeds.float().cpu().numpy(),
        caption=row.prompt,
        attributes={"row": row.row, "width": row.width, "height": row.height, "seed": row.seed},
    )
