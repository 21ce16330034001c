"""From what a reader found in a file to the rows of a shard."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.keys import hash_keys, hex_keys, key_texts
from pipelines.sources.caption_lists import CaptionChoice, chosen_captions, first_captions
from pipelines.sources.cells import TOO_LARGE
from pipelines.sources.columns import SourceColumn, TextColumns, stored_array

READER = 2
"""How files are told apart into rows; each plan keeps to the one that it was made with."""
EARLIER_READER = 1

ROW_FIELDS = (
    pa.field("row", pa.int32(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
    pa.field("url", pa.string()),
    pa.field("caption", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("error_message", pa.string()),
)


@dataclass(frozen=True, kw_only=True)
class SourceRange:
    """The part of one file that a shard is.

    Attributes:
        file: The file's name within the source.
        start_row: Of the file, from 0.
        start_byte: Where the range starts in the decompressed file; None where rows are not
            found by bytes (Parquet, img2dataset, a tar whose samples lie scattered).
        end_byte: Where it ends, exclusive.
        reader: Which version of the readers found it.
        max_cell_bytes: Larger cells are not read; None where the file had none when it was
            planned, or was planned before there was a limit.
        mark: Of the rows' names, where nothing else would tell that they are others now.
        uncut_rows: How many rows were found in it, where the plan ends after the first `num_rows`
            of them; None where it has all.
    """

    shard_id: int
    file: str
    start_row: int
    num_rows: int
    start_byte: int | None = None
    end_byte: int | None = None
    reader: int = READER
    max_cell_bytes: int | None = None
    mark: str | None = None
    uncut_rows: int | None = None

    @property
    def whole(self) -> "SourceRange":
        """The range as it was found."""
        return self if self.uncut_rows is None else replace(self, num_rows=self.uncut_rows)


@dataclass(frozen=True, kw_only=True)
class RawRows:
    """Rows as they stand in the file, one element a row in every array.

    Attributes:
        url: Strings; null where the row has none.
        caption: Strings or null; of several the first.
        reason: Null, or why the row can go no further.
        error_message: Null, or more about the reason, in our own words.
        names: The rows' names in their file; their row numbers where None.
        extra: Every other input column, under its name in the list.
        captions: Lists of texts, null in rows with a single one; None where there are no lists.
    """

    url: pa.Array
    caption: pa.Array
    reason: pa.Array
    error_message: pa.Array
    names: Sequence[str] | None = None
    extra: dict[str, pa.Array] = field(default_factory=dict)
    captions: pa.Array | None = None

    def part(self, first: int, end: int | None = None) -> "RawRows":
        """The rows from `first` on, up to before `end`."""
        rows, own = slice(first, end), {n: v for n, v in vars(self).items() if n != "extra"}
        parts = {name: values[rows] for name, values in own.items() if values is not None}
        extra = {name: column[rows] for name, column in self.extra.items()}
        return replace(self, **parts, extra=extra)

    def key_texts(self, *, file: str, start_row: int) -> list[bytes]:
        """What the rows' keys are hashes of."""
        names: Iterable[str] = (
            self.names
            if self.names is not None
            else map(str, range(start_row, start_row + len(self.url)))
        )
        return key_texts(self.url, captions=self.caption, source_name=file, names=names)


@dataclass(frozen=True, kw_only=True)
class ScannedRange:
    """Rows met while planning, a shard's worth or a piece of it; `raw.extra` may be left out.

    Attributes:
        begins_shard: Else they go on the shard of those before, which this file's own are.
        too_large: Which rows of it have a cell, in any column, that is larger than allowed.
        types: Stored type of each other input column, "" where nothing tells.
        text_columns: What the file's URL and caption columns are called.
        notes: What is passed over, null or guessed in it, and of how many rows or members.
    """

    start_row: int
    raw: RawRows
    types: dict[str, str]
    text_columns: TextColumns
    start_byte: int | None = None
    end_byte: int | None = None
    mark: str | None = None
    notes: Mapping[str, int] = field(default_factory=dict)
    begins_shard: bool = True
    too_large: Sequence[int] = ()


def raw_rows(
    *,
    url: pa.Array,
    caption: pa.Array,
    reason: Sequence[str | None] | None = None,
    error_message: Sequence[str | None] | None = None,
    names: Sequence[str] | None = None,
    extra: dict[str, pa.Array] | None = None,
    captions: pa.Array | None = None,
    too_large: Sequence[str | None] | None = None,
) -> RawRows:
    """`RawRows` in which a blank URL is null, and null is `url_missing` unless rows have names.

    Args:
        caption: Of rows without several.
        too_large: What is said of a row whose URL or caption is larger than allowed, and null.
    """
    if captions is not None:
        caption = first_captions(captions, caption)
    blank = pc.fill_null(pc.match_substring_regex(url, r"^\s*$"), True)
    url = pc.if_else(blank, pa.scalar(None, pa.string()), url)
    reasons = pa.array(reason, pa.string()) if reason else pa.nulls(len(url), pa.string())
    messages = pa.array(error_message or [None] * len(url), pa.string())
    if too_large is not None:
        told = pa.array(too_large, pa.string())
        found = pc.if_else(pc.is_valid(told), TOO_LARGE, pa.scalar(None, pa.string()))
        reasons, messages = pc.coalesce(reasons, found), pc.coalesce(messages, told)
    if names is None:
        missing = pc.and_(pc.is_null(url), pc.is_null(reasons))
        reasons = pc.if_else(missing, "url_missing", reasons)
    return RawRows(
        url=url,
        caption=caption,
        reason=reasons,
        error_message=messages,
        names=names,
        extra=extra or {},
        captions=captions,
    )


def build_rows(
    raw: RawRows,
    *,
    where: SourceRange,
    columns: Sequence[SourceColumn],
    choice: CaptionChoice | None = None,
) -> pa.Table:
    """The table of a shard: `ROW_FIELDS`, then every `source_` column of the plan.

    `url` and `caption` are as in the list, secrets and all: `url` is for the fetcher only, and
    both pass `pipelines.redact` before they are stored. `source_` columns are redacted here.
    """
    texts = raw.key_texts(file=where.file, start_row=where.start_row)
    num_rows, keys = len(texts), hash_keys(texts)
    caption = raw.caption
    if choice is not None and raw.captions is not None:
        caption = chosen_captions(raw.captions, caption, choice, keys)
    arrays = [
        pa.array(np.arange(num_rows, dtype=np.int32)),
        hex_keys(keys),
        raw.url,
        caption,
        raw.reason,
        raw.error_message,
    ]
    fields = list(ROW_FIELDS)
    for column in columns:
        found = raw.extra.get(column.input)
        array = stored_array(pa.nulls(num_rows) if found is None else found, column.type)
        arrays.append(array)
        fields.append(pa.field(column.name, array.type))
    return pa.table(arrays, schema=pa.schema(fields))
