"""Columns: which is the URL, which the caption, and every other as a storable `source_` one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.redact import redact_text_column
from pipelines.sources.arrow_text import LostValues, is_text, plain, text_of
from pipelines.sources.config import SourceError

URL_NAMES = ("url", "image_url", "imageurl", "img_url", "image_link", "uri")
CAPTION_NAMES = ("text", "caption", "alt", "alt_text", "alttext")
PROMPT_NAMES = ("prompt",)

_INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"
_FLOAT = (
    r"^[+-]?((0|[1-9][0-9]*)(\.[0-9]*|[eE][+-]?[0-9]{1,3}|\.[0-9]*[eE][+-]?[0-9]{1,3})"
    r"|\.[0-9]+([eE][+-]?[0-9]{1,3})?)$|^-?(nan|NaN|NAN|inf|Infinity)$"
)
"""A number with a point or an exponent: `007` and digits beyond 18 are names and stay text."""


class TextColumnError(SourceError):
    """A column cannot be told among those of a list.

    Attributes:
        option: Which one, as the configuration calls it: `source.url_column`, ...
        names: The list's columns.
        matches: Those of them that could be meant.
    """

    def __init__(
        self,
        message: str,
        *,
        option: str = "",  # so that it can be unpickled
        names: Sequence[str] = (),
        matches: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.option, self.names, self.matches = option, tuple(names), tuple(matches)


@dataclass(frozen=True, kw_only=True)
class SourceColumn:
    """An input column and the column of the run that carries it.

    Attributes:
        input: Its name in the list.
        name: `source_<name in lower case>`, told apart by `_2` where two would be the same.
        type: One of bool, int64, uint64, double, string.
    """

    input: str
    name: str
    type: str


@dataclass(frozen=True, kw_only=True)
class TextColumns:
    """The names of a file's URL and caption columns; None where the source has none."""

    url: str | None
    caption: str | None


def recognise_columns(
    names: Sequence[str], *, url_column: str | None, caption_column: str | None, where: str
) -> TextColumns:
    """Find the URL and caption columns of a list; of prompts (`url_column` "") the prompt alone.

    Raises:
        SourceError: a named column is absent, or none or several could be meant.
    """
    if url_column == "":
        known = PROMPT_NAMES if _has_any(names, PROMPT_NAMES) else CAPTION_NAMES
        prompt = _choose(names, caption_column, known, option="prompts.prompt_column", where=where)
        return TextColumns(url=None, caption=prompt)
    return TextColumns(
        url=_choose(names, url_column, URL_NAMES, option="source.url_column", where=where),
        caption=None
        if caption_column == ""
        else _choose(
            names, caption_column, CAPTION_NAMES, option="source.caption_column", where=where
        ),
    )


def _has_any(names: Sequence[str], known: Sequence[str]) -> bool:
    return any(name.strip().lower() in known for name in names)


def _choose(
    names: Sequence[str], asked: str | None, known: Sequence[str], *, option: str, where: str
) -> str:
    found = ", ".join(names) or "(none)"
    if asked is not None:
        if asked in names:
            return asked
        raise SourceError(f"{where}: {option} is {asked!r}, but the columns are: {found}")
    matches = [name for name in names if name.strip().lower() in known]
    if len(matches) == 1:
        return matches[0]
    problem = f"several could be meant ({', '.join(matches)})" if matches else "none is known"
    hint = ' (or "" for a list without captions)' if option == "source.caption_column" else ""
    what = option.rpartition(".")[2]
    raise TextColumnError(
        f"{where}: no {what}: {problem} among the columns: {found}; set {option}{hint}",
        option=option,
        names=names,
        matches=matches,
    )


def unique_names(names: Iterable[str]) -> list[str]:
    """The header with repeated names told apart: `a, a` becomes `a, a_2`."""
    taken: set[str] = set()
    return [_untaken(name, taken) for name in names]


def name_source_columns(types: Mapping[str, str]) -> tuple[SourceColumn, ...]:
    """Give every input column (in the order first seen) its own `source_` name."""
    taken: set[str] = set()
    return tuple(
        SourceColumn(input=name, name=_untaken(f"source_{name.lower()}", taken), type=kind)
        for name, kind in types.items()
    )


def _untaken(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def stored_type(kind: pa.DataType) -> str:
    """The type in which a column of the list is stored; whatever is not simple becomes text."""
    if isinstance(kind, pa.BaseExtensionType):
        return stored_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return stored_type(kind.value_type)
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_uint64(kind):
        return "uint64"
    if pa.types.is_integer(kind):
        return "int64"
    return "double" if pa.types.is_floating(kind) else "string"


def widen(first: str, second: str) -> str:
    """The stored type that holds the values of both; "" is that of no value."""
    if first == second or not (first and second):
        return first or second
    return "double" if {first, second} == {"int64", "double"} else "string"


def infer_text_type(column: pa.Array) -> str:
    """The stored type of a CSV column; the empty text is no value, and "" where all are empty."""
    values = column.filter(pc.not_equal(column, ""))
    if len(values) == 0:
        return ""
    for kind, pattern in (("int64", _INTEGER), ("double", f"{_INTEGER}|{_FLOAT}")):
        if pc.all(pc.match_substring_regex(values, pattern)).as_py():
            return kind
    return "string"


def stored_array(column: pa.ChunkedArray | pa.Array, kind: str) -> pa.Array:
    """A column of the list as an array of one of the stored types; text is redacted, and values
    that cannot be carried are null."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    found = carry(array, kind, LostValues())
    return redact_text_column(found) if kind == "string" else found


def carry(array: pa.Array, kind: str, losses: LostValues) -> pa.Array:
    """The array in a stored type; where Arrow refuses, halves are tried until the row is found.

    Values that cannot be carried are null and counted.
    """
    counted = losses.values
    try:
        return text_of(array, losses) if kind == "string" else _number(array, kind)
    except pa.ArrowNotImplementedError:
        losses.values = counted + len(array) - array.null_count
        return pa.nulls(len(array), pa.type_for_alias(kind))
    except pa.ArrowException:
        losses.values = counted
        if len(array) == 1:
            losses.values += 1
            return pa.nulls(1, pa.type_for_alias(kind))
        half = len(array) // 2
        return pa.concat_arrays(
            [carry(part, kind, losses) for part in (array[:half], array[half:])]
        )


def _number(array: pa.Array, kind: str) -> pa.Array:
    array = plain(array)
    if pa.types.is_string(array.type):
        array = pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)
    return pc.cast(array, pa.type_for_alias(kind), safe=False)


def as_text(array: pa.Array, losses: LostValues | None = None) -> pa.Array:
    """URLs and captions as valid UTF-8: what is none is replaced (U+FFFD) and counted."""
    array = plain(array)
    if not is_text(array.type):
        return text_of(array, losses or LostValues())
    try:
        array.validate(full=True)
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        raw = array.cast(pa.large_binary()).to_pylist()
        texts = [value if value is None else value.decode("utf-8", "replace") for value in raw]
        if losses is not None:
            pairs = zip(raw, texts, strict=True)
            losses.values += sum(t is not None and t.encode() != value for value, t in pairs)
        return pa.array(texts, pa.string())


def array_from_values(values: Sequence[object]) -> pa.Array:
    """Parsed JSON values as an array of a stored type; mixed and nested values become text."""
    kinds = {type(value) for value in values if value is not None}
    simple = {frozenset({bool}): pa.bool_(), frozenset({int}): pa.int64()}
    kind = simple.get(frozenset(kinds)) or (pa.float64() if kinds == {float, int} else None)
    if kinds == {float}:
        kind = pa.float64()
    if kind is not None:
        try:
            return pa.array(values, kind)
        except (OverflowError, pa.ArrowInvalid):
            pass
    return pa.array(
        [value if value is None else clean_text(json_text(value)) for value in values], pa.string()
    )


def clean_text(text: str | None) -> str | None:
    """The text with lone surrogates, which UTF-8 cannot hold, replaced."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()


def json_text(value: object) -> str | None:
    """A parsed JSON value as text; None where it is nested too deep."""
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return None
