"""What a takedown reaches beyond what was asked for: other rows with the same bytes, their URLs."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipelines.rules.tombstones import Tombstones, digest_of, url_digest
from pipelines.run.committed import Committed
from pipelines.run.record import StepIdentity
from pipelines.run.store import RunStore

_NAMES = ("key", "url", "final_url", "sha256")


def with_their_copies(store: RunStore, download: StepIdentity, asked: Tombstones) -> Tombstones:
    """The tombstones, the contents of the rows that they hide, and the URLs of all of these."""
    contents: set[str] = set()
    for row in _hidden_rows(store, download, asked):
        if row["sha256"] is not None:
            contents.add(digest_of("sha256", row["sha256"]))
    stones = asked | Tombstones(sha256=frozenset(contents))
    urls: set[str] = set()
    keys: set[str] = set()
    for row in _hidden_rows(store, download, stones):
        if row["url"] is None:
            keys.add(digest_of("keys", row["key"]))
        urls.update(url_digest(url) for url in (row["url"], row["final_url"]) if url)
    return stones | Tombstones(keys=frozenset(keys), urls=frozenset(urls))


def _hidden_rows(
    store: RunStore, download: StepIdentity, stones: Tombstones
) -> Iterator[dict[str, Any]]:
    made = Committed(store, "download", download.fingerprint)
    for shard_id in sorted(made.shards()):
        facts = made.table(shard_id, "facts/download", columns=_NAMES)
        if facts is not None:
            yield from facts.filter(pa.array(stones.hides(facts))).to_pylist()
