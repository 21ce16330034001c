"""What a takedown reaches: the rows that are asked for, and others with the same bytes or URLs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from pipelines.prompts import load_prompt_plan, read_images
from pipelines.rules.tombstones import Tombstones, digest_of, url_digest
from pipelines.run.committed import Committed
from pipelines.run.on_threads import in_order

_NAMES = ("key", "url", "final_url", "sha256", "prompt_key", "init_key")
_ReadRows = Callable[[], pa.Table]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What goes, and of the tombstones that were looked for those that some row has."""

    stones: Tombstones
    hits: Tombstones


def find_reach(
    made: Committed, verdicts: Committed | None, stones: Tombstones, *, others: Tombstones
) -> Reach:
    """The tombstones, the contents of the rows that they hide, and the URLs or keys of all these.

    Args:
        made: The step that made the images.
        verdicts: Select, which has the rows of a shard that was given up.
        stones: What is asked for now, or was before.
        others: Looked for besides, and hide nothing: what rows that are taken down are called.
    """
    reads = _row_reads(made, verdicts)
    threads = made.store.num_threads
    look = partial(_contents, stones=stones, others=others)
    found = list(in_order(lambda read: look(read()), reads, num_threads=threads))
    more = stones | Tombstones.union(contents for contents, _ in found)
    names = in_order(lambda read: _names(read(), more), reads, num_threads=threads)
    return Reach(
        stones=more | Tombstones.union(names), hits=Tombstones.union(hits for _, hits in found)
    )


def _row_reads(made: Committed, verdicts: Committed | None) -> Sequence[_ReadRows]:
    """Every row of the run, a shard at a time: those that were made, and of prompts those that
    are planned."""
    reads: list[_ReadRows] = [
        partial(_made_rows, made, verdicts, shard_id) for shard_id in sorted(made.shards())
    ]
    if made.step == "generate":
        plan = load_prompt_plan(made.store)
        reads += [partial(read_images, plan, made.store, n) for n in range(plan.num_shards)]
    return reads


def _made_rows(made: Committed, verdicts: Committed | None, shard_id: int) -> pa.Table:
    facts = made.table(shard_id, f"facts/{made.step}", columns=_NAMES)
    if facts is None and verdicts is not None and verdicts.find(shard_id) is not None:
        facts = verdicts.table(shard_id, "ledger", columns=_NAMES)
    return pa.table({}) if facts is None else facts


def _contents(
    rows: pa.Table, stones: Tombstones, others: Tombstones
) -> tuple[Tombstones, Tombstones]:
    """What the hidden rows hold, and what was found of the tombstones and the others."""
    hidden, hits = stones.find(rows)
    contents = {
        kind: _digests(rows, hidden_rows=pa.array(hidden), column=column, kind=kind)
        for column, kind in (("sha256", "sha256"), ("content", "contents"))
    }
    return Tombstones(**contents), hits | others.find(rows)[1]


def _names(rows: pa.Table, stones: Tombstones) -> Tombstones:
    """The URLs of the hidden rows, and the keys of those that have none."""
    names = [name for name in ("key", "url", "final_url") if name in rows.column_names]
    keys: set[str] = set()
    urls: set[str] = set()
    for row in rows.select(names).filter(pa.array(stones.hides(rows))).to_pylist():
        if row.get("url") is None:
            keys.add(digest_of("keys", row["key"]))
        urls.update(url_digest(url) for url in (row.get("url"), row.get("final_url")) if url)
    return Tombstones(keys=frozenset(keys), urls=frozenset(urls))


def _digests(rows: pa.Table, *, hidden_rows: pa.Array, column: str, kind: str) -> frozenset[str]:
    if column not in rows.column_names:
        return frozenset()
    texts = rows[column].filter(hidden_rows).drop_null().to_pylist()
    return frozenset(digest_of(kind, text) for text in texts)
