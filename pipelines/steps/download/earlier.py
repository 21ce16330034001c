"""A shard that was downloaded before: it keeps what it has; what failed in passing is retried."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.run.checked import open_checked, read_checked
from pipelines.run.committed import Committed
from pipelines.run.images import iterate_encoded
from pipelines.run.manifest import Manifest, ShardError
from pipelines.run.spool import CropSpool
from pipelines.run.store import RunStore


class EarlierShard:
    """The facts and crops of a committed shard.

    Args:
        manifest: Its own, not quarantined.
        again: Rows that failed for these reasons are fetched again.
    """

    def __init__(self, store: RunStore, manifest: Manifest, *, again: Collection[str]) -> None:
        facts = manifest.file("facts/download")
        if facts is None:
            raise ShardError(f"download shard {manifest.shard_id} has no facts")
        self._store = store
        self._again = pa.array(sorted(again), pa.string())
        self._images = manifest.file("images")
        self._facts = read_checked(store, facts)

    def failed_rows(self, rows: pa.Table) -> pa.Table:
        """Those of the planned rows that are fetched again."""
        failed = self._facts.filter(pc.is_in(self._facts["reason"], value_set=self._again))["row"]
        return rows.filter(pc.is_in(rows["row"], value_set=failed.combine_chunks()))

    def keep_crops(self, spool: CropSpool) -> None:
        """Put the crops that were stored beside the new ones."""
        if self._images is None:
            return
        stored = self._facts.filter(self._facts["reason"].is_null())
        rows = dict(zip(stored["key"].to_pylist(), stored["row"].to_pylist(), strict=True))
        with open_checked(self._store, self._images) as stream:
            for key, encoded in iterate_encoded(stream, self._images):
                spool.add(rows[key], encoded)

    def with_new(self, facts: pa.Table) -> pa.Table:
        """The facts of all rows in plan order, those that were fetched again as they are now."""
        is_old = ~np.isin(np.asarray(self._facts["row"]), np.asarray(facts["row"]))
        both = pa.concat_tables([self._facts.filter(pa.array(is_old)).cast(facts.schema), facts])
        return both.sort_by("row").combine_chunks()


def find_earlier(
    store: RunStore, fingerprint: str | None, shard_id: int, *, again: Collection[str]
) -> EarlierShard | None:
    """The shard as an earlier download left it; None where there is none, or it was given up."""
    if fingerprint is None:
        return None
    manifest = Committed(store, "download", fingerprint).find(shard_id)
    if manifest is None or manifest.quarantined is not None:
        return None
    return EarlierShard(store, manifest, again=again)
