"""A step that waits as long as it is told and commits a real shard; it notes when it worked."""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.bench.gated_step import write_span
from pipelines.run.manifest import Manifest, SpooledFile, commit_shard
from pipelines.run.store import RunStore
from pipelines.steps.step import Resources

ROWS = 10
_PATIENCE_S = 60.0


@dataclass(kw_only=True)
class WaitingStep:
    """The workload of `jobs.bench engine`; only its work is pretended.

    Attributes:
        notes: A folder of this machine, where spans go.
        wait_s: What a shard takes; one more or less by a third, by its number, where `is_uneven`.
        gate: Workers of the step that must be open before one begins: on one machine they start one
            after the other, on a cluster each on its node. After a minute it begins without them.
        slow_times: The first worker of the step that opens takes so many times as long.
    """

    store: RunStore
    notes: Path
    name: str
    resources: Resources
    wait_s: float
    is_uneven: bool = False
    gate: int = 0
    slow_times: float = 1.0
    fingerprint: str = "bench"

    @property
    def _first(self) -> Path:
        return self.notes / f"{self.name}.first"

    def open(self) -> None:
        """Wait at the gate; the first one to come is the slow one."""
        try:
            with self._first.open("x") as stream:
                stream.write(str(os.getpid()))
        except FileExistsError:
            pass
        (self.notes / f"{self.name}-{os.getpid()}.open").write_text(f"{time.time()}")
        deadline = time.monotonic() + _PATIENCE_S
        while len(list(self.notes.glob(f"{self.name}-*.open"))) < self.gate:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)

    def run(self, shard_id: int) -> Manifest:
        """Wait, and commit a small file."""
        begin = time.time()
        time.sleep(self._seconds(shard_id))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.txt"
            path.write_text(f"{self.name} {shard_id}\n" * ROWS)
            file = SpooledFile(folder=f"bench/{self.name}", path=path, num_rows=ROWS)
            manifest = commit_shard(
                self.store,
                step=self.name,
                fingerprint=self.fingerprint,
                shard_id=shard_id,
                files=[file],
                rows_in=ROWS,
                kept=ROWS,
                dropped={},
            )
        write_span(self.notes, self.name, shard_id, begin=begin)
        return manifest

    def rows_in(self, shard_id: int) -> int:
        """As many in each."""
        return ROWS

    def close(self) -> None:
        """Nothing is held."""

    def _seconds(self, shard_id: int) -> float:
        seconds = self.wait_s
        if self.is_uneven:
            seconds *= 1 + (shard_id * 7 % 11 - 5) / 15
        is_slow = self.slow_times != 1 and self._first.read_text() == str(os.getpid())
        return seconds * self.slow_times if is_slow else seconds
