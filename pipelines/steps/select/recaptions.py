"""Captions from elsewhere, a captioner's above all: by key or URL, beside those of the list."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field

from pipelines.config import Config
from pipelines.redact import redact_text_column, redact_url_column
from pipelines.rows.keys import ROW_KEY, hash_keys
from pipelines.rules.rule import OpenOptions
from pipelines.sources import SourceConfig, SourceError
from pipelines.sources.arrow_text import is_text
from pipelines.sources.columns import CAPTION_NAMES, URL_NAMES, as_text, unique_names
from pipelines.sources.config import MAX_CELL_BYTES
from pipelines.sources.files import SourceFile
from pipelines.sources.listing import list_files
from pipelines.sources.parquet_reading import BoundedReading, open_parquet

_ROWS_AT_ONCE = 16_384
_FIRST_ROWS = 64
_STORED = pa.schema([("owner", pa.string()), ("text", pa.string())])


class CaptionsConfig(Config):
    """Captions from elsewhere, such as a captioner's: what is trained on, beside those of the list,
    which stay in the ledger and are what download's rules, scores and caption facts are of."""

    model_config = ConfigDict(serialize_by_alias=True)

    path: str = Field(alias="from", min_length=1)
    """Parquet, a glob or a folder of it, on any fsspec URL (opened with `storage_options`). A row
    that it has no caption for keeps its own; a new file is a re-cut (`--steps select,encode`)."""
    match: Literal["key", "url"] | None = None
    """Which column says whose each caption is. Null: `key` where it holds keys of rows, else the
    URL. Of several captions of one row the first counts."""
    column: str | None = None
    """The captions. Null: recognised (`text`, `caption`, ...)."""


@dataclass(frozen=True, kw_only=True)
class CaptionFiles:
    """The files that `captions.from` names, as they are now."""

    config: CaptionsConfig
    storage_options: OpenOptions

    @cached_property
    def files(self) -> Sequence[SourceFile]:
        """In the order of their names; raises `SourceError` where there are none."""
        source = SourceConfig(
            path=self.config.path, format="parquet", storage_options=dict(self.storage_options)
        )
        return list_files(source, option="captions.from")

    def identity(self) -> dict[str, Any]:
        """What of them decides which caption a row has, as plain JSON."""
        return {
            "match": self.config.match,
            "column": self.config.column,
            "files": [file.sha256() for file in self.files],
        }

    def check(self) -> None:
        """Raise `SourceError` where a file is no Parquet, or lacks a column."""
        for file in self.files:
            self.columns(file)

    @cached_property
    def match(self) -> Literal["key", "url"]:
        """Whether captions are found by the rows' keys or by their URLs, by the first file."""
        if self.config.match is not None:
            return self.config.match
        return "key" if _holds_keys(self.files[0]) else "url"

    def columns(self, file: SourceFile) -> list[str]:
        """The names of the columns that say whose each caption is, and of the captions."""
        asked = self.config.column
        owners = ("key",) if self.match == "key" else URL_NAMES
        return [
            _choose(file, owners, "captions.match", f"whose each caption is ({self.match})"),
            _choose(file, CAPTION_NAMES if asked is None else (asked,), "captions.column", "text"),
        ]


def _texts(file: SourceFile) -> list[str]:
    """The names of the columns of text."""
    with open_parquet(file) as parquet:
        schema = parquet.schema_arrow
    kinds = zip(unique_names(schema.names), schema.types, strict=True)
    return [name for name, kind in kinds if is_text(kind)]


def _choose(file: SourceFile, known: Sequence[str], option: str, what: str) -> str:
    texts = _texts(file)
    found = [n for n in texts if n in known] or [n for n in texts if n.strip().lower() in known]
    if len(found) == 1:
        return found[0]
    raise SourceError(
        f"{file.uri}: {option}: {len(found)} columns could say {what}; its columns of text are: "
        f"{', '.join(texts) or 'none'}. It takes a Parquet with `key`, as the run's ledger has it, "
        "or the list's `url`, and the captions"
    )


def _holds_keys(file: SourceFile) -> bool:
    if "key" not in _texts(file):
        return False
    for piece in BoundedReading(file, only=["key"], max_bytes=None).pieces(_FIRST_ROWS):
        found = piece.table["key"].drop_null().to_pylist()
        return all(re.fullmatch(ROW_KEY, key) for key in found)
    return True


class Recaptions:
    """The files' captions, found by whose they are; 25 bytes of memory for each.

    Args:
        files: Which.
        folder: A local folder, for their texts.
    """

    def __init__(self, files: CaptionFiles, folder: Path) -> None:
        self._files = files
        self._path = folder / "recaptions.arrow"

    def read(self) -> None:
        """Once, before they are asked for on several threads."""
        self._index.is_used[:] = False

    def of(self, rows: pa.Table) -> pa.Array:
        """The caption of each row of a table with `key` and `url`; null where there is none."""
        index = self._index
        owners = rows[self._files.match].to_pylist()
        places = index.places(owners)
        texts = np.full(len(owners), None, np.object_)
        hits = np.flatnonzero(places >= 0)
        batches = np.searchsorted(index.starts, places[hits], side="right") - 1
        with pa.memory_map(str(self._path)) as stored, pa.ipc.open_file(stored) as reader:
            for number in np.unique(batches).tolist():
                at = hits[batches == number]
                within = pa.array(places[at] - index.starts[number])
                found = reader.get_batch(number).take(within).to_pydict()
                for row, owner, text in zip(at, found["owner"], found["text"], strict=True):
                    texts[row] = (
                        text if owner == owners[row] else None
                    )  # else only a hash in common
        return pa.array(texts, pa.string())

    def told(self) -> str:
        """How many of the files' captions are of rows that were asked for, and what of the rest."""
        index = self._index
        total, used = len(index.hashes) + index.num_empty, int(index.is_used.sum())
        doubled = len(index.hashes) - len(np.unique(index.hashes))
        counts = {"a second one of its row": doubled, "empty": index.num_empty}
        left = ", ".join(f"{what} ({count:,})" for what, count in counts.items() if count)
        told = f"captions.from: {used:,} of {total:,} captions are of rows of this run"
        return f"{told}; left out as {left}" if left else told

    @cached_property
    def _index(self) -> "_Index":
        hashes, starts, num_empty, start = [np.empty(0, np.uint64)], [], 0, 0
        with pa.OSFile(str(self._path), "wb") as sink, pa.ipc.new_file(sink, _STORED) as writer:
            for table in self._tables():
                blank = pc.match_substring_regex(table["text"], r"^\s*$")
                usable = table.filter(pc.and_(pc.is_valid(table["owner"]), pc.invert(blank)))
                num_empty += table.num_rows - usable.num_rows
                for batch in usable.combine_chunks().to_batches():
                    writer.write_batch(batch)
                    hashes.append(_hashed(batch["owner"].to_pylist()))
                    starts.append(start)
                    start += batch.num_rows
        return _Index(
            np.concatenate(hashes), starts=np.array(starts, np.int64), num_empty=num_empty
        )

    def _tables(self) -> Iterator[pa.Table]:
        for file in self._files.files:
            only = self._files.columns(file)
            reading = BoundedReading(file, only=only, max_bytes=MAX_CELL_BYTES)
            for piece in reading.pieces(_ROWS_AT_ONCE):
                owner, text = (as_text(piece.table[name].combine_chunks()) for name in only)
                yield pa.table([redact_url_column(owner), redact_text_column(text)], schema=_STORED)


class _Index:
    """Where each caption lies, by the hash of whose it is; of several of one row the first."""

    def __init__(
        self, hashes: npt.NDArray[np.uint64], *, starts: npt.NDArray[np.int64], num_empty: int
    ) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self.hashes, self.starts, self.num_empty = hashes[self._order], starts, num_empty
        self.is_used = np.zeros(len(hashes), np.bool_)

    def places(self, owners: Sequence[str | None]) -> npt.NDArray[np.int64]:
        """Of each of them, -1 where there is none."""
        if not len(self.hashes):
            return np.full(len(owners), -1)
        asked = _hashed([owner or "" for owner in owners])
        at = np.searchsorted(self.hashes, asked)
        at[at == len(self.hashes)] = 0
        is_there = (self.hashes[at] == asked) & np.array([owner is not None for owner in owners])
        self.is_used[at[is_there]] = True
        return np.where(is_there, self._order[at], -1)


def _hashed(owners: Sequence[str]) -> npt.NDArray[np.uint64]:
    return hash_keys([owner.encode() for owner in owners]).view(np.uint64)
