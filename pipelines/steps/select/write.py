"""The ledger's rows: facts, scores and verdict."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.ledger import LEDGER
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
        named: set[int] = set()
        for shard_id in range(facts.num_shards):
            originals = verdicts.originals[verdicts.shard(shard_id)]
            matched.update((-1 - originals[originals < 0]).tolist())
            copies = np.flatnonzero(originals > 0) + verdicts.shard(shard_id).start
            for places in (verdicts.originals[copies] - 1, verdicts.kept_originals(copies)):
                self._at[places] = 1
                named.update(np.unique(verdicts.shards_of(places)).tolist())
        self._references = references.names(matched)
        self._path = folder / "keys"

        def keys_of(shard_id: int) -> tuple[Places, list[str]]:
            at = verdicts.shard(shard_id)
            rows = np.flatnonzero(self._at[at])
            return at.start + rows, facts.keys(shard_id).take(rows).to_pylist()

        with self._path.open("wb") as stream:
            for places, keys in facts.in_order(keys_of, sorted(named)):
                lines = [key.encode() + b"\n" for key in keys]
                ends = np.cumsum([len(line) for line in lines])
                self._at[places] = 1 + stream.tell() + np.append(0, ends[:-1])
                stream.write(b"".join(lines))

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


def ledger_table(
    facts: pa.Table,
    verdicts: Verdicts,
    names: CopyNames,
    *,
    places: slice,
    further: Sequence[pa.Field] = (),
) -> pa.Table:
    """A shard of the ledger; what the facts have beside its columns comes at the end."""
    codes = np.asarray(verdicts.codes[places])
    reason, rule = _outcomes(verdicts, codes)
    rule, duplicate_of = _copies(rule, verdicts, names, places)
    by_facts = pa.array(codes < 0)
    columns = {
        "kept": pa.array(codes == 0),
        "reason": pc.if_else(by_facts, _text(facts, "reason"), reason),
        "rule": pc.if_else(by_facts, _text(facts, "rule"), rule),
        "duplicate_of": duplicate_of,
        "error_message": _messages(facts, verdicts, places),
    }
    own = pa.schema([*LEDGER, *further])
    fields = [*own, *(field for field in facts.schema if field.name not in own.names)]
    arrays = [
        columns[field.name] if field.name in columns else facts[field.name] for field in fields
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _text(facts: pa.Table, name: str) -> pa.Array:
    return pc.cast(facts[name], pa.string()).combine_chunks()


def _messages(facts: pa.Table, verdicts: Verdicts, places: slice) -> pa.ChunkedArray:
    """The facts' messages, and those of rows that failed in select."""
    if not verdicts.messages:
        return facts["error_message"]
    told = [place for place in range(places.start, places.stop) if place in verdicts.messages]
    messages = facts["error_message"].to_pylist()
    for place in told:
        messages[place - places.start] = verdicts.messages[place]
    return pa.chunked_array([pa.array(messages, pa.string())])


def _outcomes(verdicts: Verdicts, codes: np.ndarray) -> tuple[pa.Array, pa.Array]:
    at = pa.array(codes.astype(np.int64) - 1, mask=codes <= 0)
    reasons = pa.array([outcome.reason for outcome in verdicts.outcomes], pa.string())
    rules = pa.array([outcome.rule for outcome in verdicts.outcomes], pa.string())
    return reasons.take(at), rules.take(at)


def _copies(
    rule: pa.Array, verdicts: Verdicts, names: CopyNames, at: slice
) -> tuple[pa.Array, pa.Array]:
    """The rules with the key that each copy copies, and the kept row that stands for it."""
    originals = np.asarray(verdicts.originals[at])
    copies, matched = np.flatnonzero(originals > 0), np.flatnonzero(originals < 0)
    if not len(copies) and not len(matched):
        return rule, pa.nulls(len(originals), pa.string())
    told = rule.to_pylist()
    for row, key in zip(copies.tolist(), names.keys(originals[copies] - 1), strict=True):
        told[row] = f"{told[row]} {key}"
    for row in matched.tolist():
        told[row] = f"{told[row]} {names.reference(-1 - int(originals[row]))}"
    stands_for: list[str | None] = [None] * len(originals)
    kept = names.keys(verdicts.kept_originals(copies + at.start))
    for row, key in zip(copies.tolist(), kept, strict=True):
        stands_for[row] = key
    return pa.array(told, pa.string()), pa.array(stands_for, pa.string())
