"""Select over a whole run: two passes over the facts, with the duplicates settled between."""

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.ledger import ORIGIN_FACTS, source_fields
from pipelines.manifest import (
    Manifest,
    ShardError,
    SpooledFile,
    commit_shard,
    committed_shards,
    read_manifest,
)
from pipelines.stages.select.config import SelectConfig
from pipelines.stages.select.duplicates import (
    CURATED_KEY_BYTES,
    GENERATED_KEY_BYTES,
    DuplicateIndex,
)
from pipelines.stages.select.verdict import Verdict, join_scores, judge, ledger_table
from pipelines.storage import RunStore
from pipelines.tables import read_table, write_table


@dataclass(frozen=True, kw_only=True)
class Select:
    """Reads facts, writes the ledger: one row for every input row.

    Attributes:
        read_rows: Rows of a shard whose download was quarantined (row, key, url, caption and
            source columns), read from the list again.
    """

    store: RunStore
    fingerprint: str
    config: SelectConfig
    num_shards: int
    download: str
    """Fingerprint of the step that made the images."""
    score: str | None
    """Fingerprint of the score step; None where nothing is scored."""
    read_rows: Callable[[int], pa.Table]
    origin: str = "download"
    """That step's name, `download` or `generate`."""

    name = "select"

    def run(self, on_commit: Callable[[Manifest], None]) -> None:
        """Write every shard of the ledger that is not there yet."""
        done = committed_shards(self.store, self.name, self.fingerprint)
        if len(done) == self.num_shards:
            return
        with tempfile.TemporaryDirectory(prefix="latent-foundry-select-") as folder:
            is_generated = self.origin == "generate"
            key_bytes = GENERATED_KEY_BYTES if is_generated else CURATED_KEY_BYTES
            index = DuplicateIndex(Path(folder), key_bytes=key_bytes)
            if self.config.duplicates == "sha256":
                self._collect(index)
            index.settle()
            for shard_id, copies in enumerate(index.copies(self.num_shards)):
                if shard_id not in done:
                    on_commit(self._write(shard_id, copies, Path(folder)))

    def _collect(self, index: DuplicateIndex) -> None:
        for shard_id in range(self.num_shards):
            joined = self._facts(shard_id)
            verdict = judge(joined, self.config)
            rows = joined.filter(pa.array(verdict.passed)).select(["row", "key", "sha256"])
            if rows.num_rows:
                index.add(
                    shard_id,
                    rows=rows["row"].to_numpy(),
                    keys=rows["key"].to_pylist(),
                    sha256=rows["sha256"].to_pylist(),
                )

    def _write(self, shard_id: int, copies: np.ndarray, folder: Path) -> Manifest:
        joined = self._facts(shard_id)
        verdict = judge(joined, self.config)
        _drop_copies(joined, verdict, copies)
        table = ledger_table(joined, verdict)
        path = folder / f"ledger-{shard_id}.parquet"
        write_table(table, path)
        dropped = Counter(reason for reason in verdict.reason if reason is not None)
        manifest = commit_shard(
            self.store,
            step=self.name,
            fingerprint=self.fingerprint,
            shard_id=shard_id,
            files=[
                SpooledFile(folder="ledger", path=path, suffix=".parquet", num_rows=table.num_rows)
            ],
            rows_in=table.num_rows,
            kept=table.num_rows - sum(dropped.values()),
            dropped=dropped,
        )
        path.unlink()
        return manifest

    def _facts(self, shard_id: int) -> pa.Table:
        download = self._manifest(self.origin, self.download, shard_id)
        if download.quarantined is not None:
            return join_scores(self._quarantined_facts(shard_id), None)
        facts = self._read(download, f"facts/{self.origin}")
        if self.score is None:
            return join_scores(facts, None)
        score = self._manifest("score", self.score, shard_id)
        if score.quarantined is None:
            return join_scores(facts, self._read(score, "facts/score"))
        reasons = ["shard_quarantined" if r is None else r for r in facts["reason"].to_pylist()]
        at = facts.schema.get_field_index("reason")
        facts = facts.set_column(at, facts.schema.field(at), pa.array(reasons, pa.string()))
        return join_scores(facts, None)

    def _quarantined_facts(self, shard_id: int) -> pa.Table:
        rows = self.read_rows(shard_id)
        columns = {name: rows[name] for name in rows.column_names}
        columns["shard_id"] = pa.array(np.full(rows.num_rows, shard_id, np.int32))
        columns["reason"] = pa.array(["shard_quarantined"] * rows.num_rows)
        fields = [*ORIGIN_FACTS[self.origin], *source_fields(rows.schema)]
        arrays = [
            columns[field.name].cast(field.type)
            if field.name in columns
            else pa.nulls(rows.num_rows, field.type)
            for field in fields
        ]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def _manifest(self, step: str, fingerprint: str, shard_id: int) -> Manifest:
        manifest = read_manifest(self.store, step, fingerprint, shard_id)
        if manifest is None:
            raise ShardError(f"{step} shard {shard_id} is not committed; run that step first")
        return manifest

    def _read(self, manifest: Manifest, folder: str) -> pa.Table:
        entry = manifest.file(folder)
        if entry is None:
            raise ShardError(f"{manifest.step} shard {manifest.shard_id} has no file in {folder}")
        return read_table(self.store, entry.path)


def _drop_copies(joined: pa.Table, verdict: Verdict, copies: np.ndarray) -> None:
    if not len(copies):
        return
    position = {row: at for at, row in enumerate(joined["row"].to_pylist())}
    for copy in copies:
        at = position[int(copy["row"])]
        verdict.reason[at] = "duplicate_bytes"
        verdict.rule[at] = f"same sha256 as {copy['key'].decode()}"
