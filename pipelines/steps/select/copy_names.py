"""The keys of the rows that others copy."""

from pathlib import Path

import numpy as np

from pipelines.steps.select.facts import Facts
from pipelines.steps.select.references import References
from pipelines.steps.select.verdicts import Places, Verdicts


class CopyNames:
    """Reads the keys of all originals once, into a local file.

    Args:
        facts: The run's facts.
        verdicts: Settled.
        references: The reference sets, whose matched rows are named in memory.
        folder: A local folder.
    """

    def __init__(
        self, facts: Facts, verdicts: Verdicts, references: References, folder: Path
    ) -> None:
        shape = (max(1, verdicts.num_rows),)
        self._at = np.memmap(folder / "key-at", np.int64, mode="w+", shape=shape)
        matched: set[int] = set()
        for shard_id in range(facts.num_shards):
            originals = verdicts.originals[verdicts.shard(shard_id)]
            matched.update((-1 - originals[originals < 0]).tolist())
            copies = np.flatnonzero(originals > 0) + verdicts.shard(shard_id).start
            self._at[verdicts.originals[copies] - 1] = 1
            self._at[verdicts.kept_originals(copies)] = 1
        self._references = references.names(matched)
        self._path = folder / "keys"
        with self._path.open("wb") as stream:
            for shard_id in range(facts.num_shards):
                at = verdicts.shard(shard_id)
                rows = np.flatnonzero(self._at[at])
                if not len(rows):
                    continue
                keys = facts.read(shard_id, columns=["key"])["key"].take(rows).to_pylist()
                for row, key in zip(rows.tolist(), keys, strict=True):
                    self._at[at.start + row] = 1 + stream.tell()
                    stream.write(key.encode() + b"\n")

    def keys(self, places: Places) -> list[str]:
        """The keys of originals in the run."""
        keys = []
        with self._path.open("rb") as stream:
            for at in self._at[places].tolist():
                stream.seek(at - 1)
                keys.append(stream.readline()[:-1].decode())
        return keys

    def reference(self, number: int) -> str:
        """What a row of a reference set is called."""
        return self._references[number]
