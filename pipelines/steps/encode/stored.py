"""Encode for generated images: the latents are there, and the kept rows' become the cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.rows.failures import reject, spool_rejects
from pipelines.run.cache_files import read_recorded, record_cache
from pipelines.run.checked import open_checked
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest, SpooledFile
from pipelines.run.spool_folder import spool_folder
from pipelines.steps.step import CommittedStep
from sd_core.cache.formats import format_of, iterate_shard, open_shard_writer
from sd_core.cache.samples import LatentSample
from sd_core.cache.spec import CacheSpec

ENCODE_REJECTS = "latents/rejects"
NOT_FINITE = "a latent or embedding is not finite in the cache's dtype"


def commit_latents(
    encode: CommittedStep,
    *,
    shard_id: int,
    path: Path,
    num_written: int,
    rejects: Sequence[dict[str, Any]],
    bucket_rows: tuple[int, ...] | None = None,
    inputs: str | None = None,
) -> Manifest:
    """Publish a finished local shard and its rejects, then the manifest of the encode step.

    Args:
        path: The shard; not published where it holds nothing.
        num_written: Its samples.
        bucket_rows: They by bucket, in a cache of many sizes.
        rejects: Rows of `REJECTS`, in order.
        inputs: What the shard was made from, where a later revision may reuse it.
    """
    latents = SpooledFile(
        folder="latents", path=path, num_rows=num_written, bucket_rows=bucket_rows
    )
    files = [latents] if num_written else []
    refused = path.with_name("rejects.parquet")
    files += spool_rejects(rejects, path=refused, folder=ENCODE_REJECTS)
    reasons = [reject["reason"] for reject in rejects]
    return encode.commit_shard(shard_id, files, kept=num_written, reasons=reasons, inputs=inputs)


@dataclass(kw_only=True, eq=False)
class StoredLatentsStep(CommittedStep):
    """Takes the kept rows of the latents that `generate` stored into the cache; no model runs.

    Args beside those of `CommittedStep`:
        images: The generate step.
        verdicts: The select step.
        folder: Where generate stored its latents.
    """

    name = "encode"

    images: Committed
    verdicts: Committed
    folder: str
    _spec: CacheSpec | None = field(default=None, init=False)

    def open(self) -> None:
        """Take over what the latents are from the step that made them."""
        spec, empty_caption = read_recorded(self.images)
        record_cache(self.made, spec=spec, empty_caption=empty_caption)
        self._spec = spec

    def rows_in(self, shard_id: int) -> int:
        return self.verdicts.manifest(shard_id).kept

    def run(self, shard_id: int) -> Manifest:
        """Copy the kept rows' latents and commit them."""
        spec = self._spec
        if spec is None:
            raise RuntimeError("open() comes before run()")
        kept = self._kept_rows(shard_id)
        with spool_folder() as folder:
            path = folder / f"latents{format_of(spec).suffix}"
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
                self,
                shard_id=shard_id,
                path=path,
                num_written=writer.num_written,
                bucket_rows=writer.bucket_rows,
                rejects=rejects,
            )

    def _samples(self, shard_id: int, spec: CacheSpec) -> Iterator[LatentSample]:
        entry = self.images.file(shard_id, self.folder)
        if entry is not None:
            with open_checked(self.images.store, entry) as stream:
                yield from iterate_shard(stream, spec, name=entry.path)

    def _kept_rows(self, shard_id: int) -> dict[str, dict[str, Any]]:
        names = ["shard_id", "row", "key", "kept"]
        ledger = self.verdicts.table(shard_id, "ledger", columns=names)
        if ledger is None:
            return {}
        return {row["key"]: row for row in ledger.filter(ledger["kept"]).to_pylist()}
