"""Shards of many sizes: samples come in any order, and lie bucket by bucket."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from sd_core.cache.samples import LatentSample
from sd_core.cache.shard_format import CacheFormat, ShardWriter
from sd_core.cache.spec import CacheSpec


class SortingWriter:
    """Writes a file of each bucket beside the shard, and puts them together at the end.

    Within a bucket samples keep the order in which they came.

    Args:
        form: Of the shard.
        parts: Of the files beside it; one that holds no samples back.
    """

    def __init__(
        self, path: Path, spec: CacheSpec, form: CacheFormat, *, parts: CacheFormat
    ) -> None:
        self._path, self._spec, self._form, self._part_form = path, spec, form, parts
        self._folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        self._open = ExitStack()
        self._parts: dict[int, tuple[Path, ShardWriter]] = {}
        self.num_written = 0

    @property
    def bucket_rows(self) -> tuple[int, ...] | None:
        """How many samples there are of each size."""
        counts = [0] * len(self._spec.buckets)
        for bucket, (_, writer) in self._parts.items():
            counts[bucket] = writer.num_written
        return tuple(counts)

    def write(self, sample: LatentSample) -> bool:
        """Store a sample; False, and nothing written, where a value is not finite as stored.

        Raises:
            CacheShardError: its shape is none of the spec's.
        """
        shapes = self._spec.latents_shapes
        shape = sample.raw_latents.shape
        bucket = shapes.index(shape) if shape in shapes else 0  # whose writer refuses it
        if bucket not in self._parts:
            path = self._folder / str(bucket)
            writer = self._open.enter_context(self._part_form.open_writer(path, self._spec))
            self._parts[bucket] = path, writer
        is_written = self._parts[bucket][1].write(sample)
        self.num_written += is_written
        return is_written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._open.__exit__(kind, error, trace)
            if kind is None:
                self._join()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _join(self) -> None:
        with self._form.open_writer(self._path, self._spec) as writer:
            for bucket in sorted(self._parts):
                path, _ = self._parts[bucket]
                with path.open("rb") as stream:
                    for sample in self._part_form.iterate(stream, self._spec, name=path.name):
                        writer.write(sample)
                path.unlink()
