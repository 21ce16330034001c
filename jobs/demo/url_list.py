"""A URL list with bad URLs among the good, each row with what was planted in it."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.demo.bad_urls import BAD_URLS, bad_url
from jobs.demo.recall import BAD_URL_PREFIX


@dataclass(frozen=True, kw_only=True)
class ListRow:
    """One row: `planted` is `good`, a flaw, `bad_url:<name>` or `duplicate_row`."""

    url: str
    caption: str
    planted: str


def choose_bad_urls(count: int) -> list[str]:
    """Names of `BAD_URLS`: one for each reason in turn, then a second for each, and so on.

    Raises:
        ValueError: there are not so many.
    """
    if not 0 <= count <= len(BAD_URLS):
        raise ValueError(f"{count} bad URLs are asked for, and there are {len(BAD_URLS)}")
    by_reason: dict[str, list[str]] = {}
    for name, bad in BAD_URLS.items():
        by_reason.setdefault(bad.reason, []).append(name)
    turns = zip_longest(*by_reason.values())
    return [name for turn in turns for name in turn if name is not None][:count]


def bad_url_rows(names: Iterable[str], *, server: str) -> list[ListRow]:
    """A row for each of these bad URLs on a running server."""
    return [
        ListRow(
            url=bad_url(name, server=server),
            caption=f"what the URL {name} was said to show",
            planted=BAD_URL_PREFIX + name,
        )
        for name in names
    ]


def mix(rows: Sequence[ListRow], others: Sequence[ListRow], *, seed: int) -> list[ListRow]:
    """Put `others` at random places among `rows`, whose own order stays."""
    rng = random.Random(seed)
    mixed = list(rows)
    for other in others:
        mixed.insert(rng.randrange(len(mixed) + 1), other)
    return mixed


def write_list(rows: Sequence[ListRow], path: Path) -> None:
    """Write the rows as Parquet with LAION's column names: URL, TEXT, and `planted`."""
    columns = {
        "URL": [row.url for row in rows],
        "TEXT": [row.caption for row in rows],
        "planted": [row.planted for row in rows],
    }
    pq.write_table(pa.table(columns), path)
