"""The commit of a latent shard: the samples that were written and the rows that were refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.rows.failures import spool_rejects
from pipelines.run.manifest import Manifest
from pipelines.steps.left_rows import spool
from pipelines.steps.step import CommittedStep

ENCODE_REJECTS = "latents/rejects"
NOT_FINITE = "a latent or embedding is not finite in the cache's dtype"


def commit_latents(
    encode: CommittedStep,
    *,
    shard_id: int,
    path: Path,
    num_written: int,
    rejects: Sequence[dict[str, Any]],
    inputs: str | None = None,
) -> Manifest:
    """Publish a finished local shard and its rejects, then the manifest of the encode step.

    Args:
        path: The shard; not published where it holds nothing.
        num_written: Its samples.
        rejects: Rows of `REJECTS`, in order.
        inputs: What the shard was made from, where a later revision may reuse it.
    """
    files = [spool(path, "latents", num_written)] if num_written else []
    refused = path.with_name("rejects.parquet")
    files += spool_rejects(rejects, path=refused, folder=ENCODE_REJECTS)
    reasons = [reject["reason"] for reject in rejects]
    return encode.commit_shard(shard_id, files, kept=num_written, reasons=reasons, inputs=inputs)
