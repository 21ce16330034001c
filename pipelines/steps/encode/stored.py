"""Encode for generated images: the latents are there, and the kept rows' become the cache."""

import io
from collections.abc import Iterator
from typing import Any

from pipelines.rows.failures import reject
from pipelines.run.cache_files import read_recorded, record_cache
from pipelines.run.manifest import Manifest, ShardError, read_manifest
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table
from pipelines.steps.encode.commit import NOT_FINITE, commit_latents
from pipelines.steps.step import Resources
from sd_core.cache.samples import LatentSample
from sd_core.cache.shards import SUFFIXES, iterate_shard, open_shard_writer
from sd_core.cache.spec import CacheSpec


class StoredLatentsStep:
    """Takes the kept rows of the latents that `generate` stored into the cache; no model runs.

    Args:
        store: The run.
        fingerprint: Of everything that can change the result.
        generate: Fingerprint of the generate step.
        select: Fingerprint of the select step.
        folder: Where generate stored its latents.
    """

    name = "encode"

    def __init__(
        self,
        store: RunStore,
        *,
        fingerprint: str,
        generate: str,
        select: str,
        folder: str,
        resources: Resources | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self.resources = resources or Resources()
        self._store = store
        self._generate = generate
        self._select = select
        self._folder = folder
        self._spec: CacheSpec | None = None

    def open(self) -> None:
        """Take over what the latents are from the step that made them."""
        spec, empty_caption = read_recorded(
            self._store, step="generate", fingerprint=self._generate
        )
        record_cache(
            self._store, fingerprint=self.fingerprint, spec=spec, empty_caption=empty_caption
        )
        self._spec = spec

    def close(self) -> None:
        """Nothing is held."""

    def rows_in(self, shard_id: int) -> int:
        """Rows that select kept."""
        return self._manifest("select", self._select, shard_id).kept

    def run(self, shard_id: int) -> Manifest:
        """Copy the kept rows' latents and commit them."""
        spec = self._spec
        if spec is None:
            raise RuntimeError("open() comes before run()")
        kept = self._kept_rows(shard_id)
        with spool_folder() as folder:
            path = folder / f"latents{SUFFIXES[spec.format]}"
            with open_shard_writer(path, spec) as writer:
                for sample in self._samples(shard_id, spec):
                    if sample.key in kept:
                        del kept[sample.key]
                        writer.write(sample)
            # Select judged the size, so that generate has left out what is not finite alone.
            rejects = [
                reject(row, reason="latents_not_finite", message=NOT_FINITE)
                for row in kept.values()
            ]
            return commit_latents(
                self._store,
                fingerprint=self.fingerprint,
                shard_id=shard_id,
                path=path,
                num_written=writer.num_written,
                rejects=rejects,
            )

    def _samples(self, shard_id: int, spec: CacheSpec) -> Iterator[LatentSample]:
        entry = self._manifest("generate", self._generate, shard_id).file(self._folder)
        if entry is not None:
            with self._store.open(entry.path) as stream:
                source = io.BytesIO(stream.read()) if spec.format == "parquet" else stream
                yield from iterate_shard(source, spec, name=entry.path)

    def _kept_rows(self, shard_id: int) -> dict[str, dict[str, Any]]:
        entry = self._manifest("select", self._select, shard_id).file("ledger")
        if entry is None:
            return {}
        names = ["shard_id", "row", "key", "kept"]
        ledger = read_table(self._store, entry.path, columns=names)
        return {row["key"]: row for row in ledger.filter(ledger["kept"]).to_pylist()}

    def _manifest(self, step: str, fingerprint: str, shard_id: int) -> Manifest:
        manifest = read_manifest(self._store, step, fingerprint, shard_id)
        if manifest is None:
            raise ShardError(f"{step} shard {shard_id} is not committed; run that step first")
        return manifest
