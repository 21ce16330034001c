"""A real step without models: it writes one small file a shard, and can be told to fail."""

import errno
import os
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.run.manifest import Manifest, ShardError, SpooledFile, commit_shard
from pipelines.run.store import RunStore
from pipelines.steps.step import Resources

ROWS = 10
FULL = OSError(errno.ENOSPC, "No space left on device")


@dataclass
class ToyStep:
    """`die_once` and `hang` name shards; `fail` names shards that always raise."""

    store: RunStore
    name: str = "toy"
    fingerprint: str = "f0"
    resources: Resources = field(default_factory=lambda: Resources(num_workers=2))
    die_once: tuple[int, ...] = ()
    fail: tuple[int, ...] = ()
    disk_full: tuple[int, ...] = ()
    """Shards whose reading ends in a `ShardError` that a full disk is the cause of."""
    fail_to_open: str | None = None
    disk_full_to_open: bool = False
    pause_s: float = 0.0
    freeze_once: tuple[int, ...] = ()
    """Shards whose worker stops for good, but does not die."""
    slow_once: tuple[int, ...] = ()
    """Shards whose first worker takes a minute longer."""
    light: tuple[int, ...] = ()
    """Shards that can be run without `open`."""
    die_opening: int = 0
    """So many workers are killed while they open."""

    def open(self) -> None:
        if self.fail_to_open:
            raise ValueError(self.fail_to_open)
        if self.disk_full_to_open:
            raise ShardError("weights are cut off") from FULL
        for number in range(self.die_opening):
            if self.store.create_exclusive(f"died/{self.name}-open-{number}", b""):
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGKILL)
        mark = f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}"
        self.store.replace(f"opened/{self.name}-{os.getpid()}", mark.encode())

    def run(self, shard_id: int) -> Manifest:
        self.store.replace(f"attempts/{self.name}-{shard_id}-{time.time_ns()}", b"")
        first = self.store.create_exclusive(f"died/{self.name}-{shard_id}", b"")
        if shard_id in self.die_once and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if shard_id in self.freeze_once and first:
            os.kill(os.getpid(), signal.SIGSTOP)
        if shard_id in self.slow_once and first:
            time.sleep(60)
        if shard_id in self.fail:
            raise ValueError(f"poison in shard {shard_id}")
        if shard_id in self.disk_full:
            raise ShardError(f"shard {shard_id} is cut off") from FULL
        time.sleep(self.pause_s)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.txt"
            path.write_text(f"{self.name} {shard_id}\n" * ROWS)
            return commit_shard(
                self.store,
                step=self.name,
                fingerprint=self.fingerprint,
                shard_id=shard_id,
                files=[SpooledFile(folder=self.name, path=path, num_rows=ROWS)],
                rows_in=ROWS,
                kept=ROWS,
                dropped={},
            )

    def is_light(self, shard_id: int) -> bool:
        return shard_id in self.light

    def rows_in(self, shard_id: int) -> int:
        return ROWS

    def close(self) -> None:
        pass
