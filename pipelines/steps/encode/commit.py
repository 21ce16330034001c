"""The commit of a latent shard: the samples that were written and the rows that were refused."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.rows.failures import spool_rejects
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest, SpooledFile, commit_shard

ENCODE_REJECTS = "latents/rejects"
NOT_FINITE = "a latent or embedding is not finite in the cache's dtype"


def commit_latents(
    encode: Committed,
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
    files = []
    if num_written:
        files.append(
            SpooledFile(folder="latents", path=path, suffix=path.suffix, num_rows=num_written)
        )
    refused = path.with_name("rejects.parquet")
    files += spool_rejects(rejects, path=refused, folder=ENCODE_REJECTS)
    return commit_shard(
        encode.store,
        step=encode.step,
        fingerprint=encode.fingerprint,
        shard_id=shard_id,
        files=files,
        rows_in=num_written + len(rejects),
        kept=num_written,
        dropped=Counter(reject["reason"] for reject in rejects),
        inputs=inputs,
    )
