"""The commit of a latent shard: the samples that were written and the rows that were refused."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.ledger import ENCODE_REJECTS
from pipelines.manifest import Manifest, SpooledFile, commit_shard
from pipelines.storage import RunStore
from pipelines.tables import write_table


def commit_latents(
    store: RunStore,
    *,
    fingerprint: str,
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
        rejects: Rows of `ENCODE_REJECTS`.
        inputs: What the shard was made from, where a later revision may reuse it.
    """
    files = []
    if num_written:
        files.append(
            SpooledFile(folder="latents", path=path, suffix=path.suffix, num_rows=num_written)
        )
    if rejects:
        table = path.with_name("rejects.parquet")
        write_table(pa.Table.from_pylist(list(rejects), schema=ENCODE_REJECTS), table)
        files.append(
            SpooledFile(
                folder="latents/rejects", path=table, suffix=".parquet", num_rows=len(rejects)
            )
        )
    return commit_shard(
        store,
        step="encode",
        fingerprint=fingerprint,
        shard_id=shard_id,
        files=files,
        rows_in=num_written + len(rejects),
        kept=num_written,
        dropped=Counter(reject["reason"] for reject in rejects),
        inputs=inputs,
    )
