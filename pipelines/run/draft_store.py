"""A run as it would be: what is written stays in memory, until it is published or forgotten."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pipelines.run.store import RunStore


@dataclass(frozen=True)
class DraftStore(RunStore):
    """The run that lies at `root`, with files that this process has written over it, in order."""

    written: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def over(cls, store: RunStore) -> "DraftStore":
        """Over a run; nothing is written yet."""
        return cls(store.root, store.storage_options, store.flat)

    def publish(self, store: RunStore) -> None:
        """Write to the run what was written here, in the same order."""
        for path, content in self.written.items():
            store.replace(path, content)

    def exists(self, path: str) -> bool:
        return path in self.written or super().exists(path)

    def list_sizes(self, folder: str) -> dict[str, int]:
        ours = {path: len(held) for path, held in self.written.items() if _folder(path) == folder}
        named = {path.rpartition("/")[2]: size for path, size in ours.items()}
        return {**super().list_sizes(folder), **named}

    def read_bytes(self, path: str) -> bytes:
        return self.written[path] if path in self.written else super().read_bytes(path)

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        if path in self.written:
            yield io.BytesIO(self.written[path])
            return
        with super().open(path) as stream:
            yield stream

    def put_file(self, local: Path, path: str) -> None:
        self.replace(path, local.read_bytes())

    def replace(self, path: str, content: bytes) -> None:
        self.written.pop(path, None)
        self.written[path] = content

    def create_exclusive(self, path: str, content: bytes) -> bool:
        if self.exists(path):
            return False
        self.written[path] = content
        return True

    def delete(self, path: str) -> None:
        """What lies in the run itself stays."""
        self.written.pop(path, None)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
