"""Columns of any Arrow type as text, by Arrow alone: no value becomes a Python object.

Python's own types hold less than Arrow's (no year 10000, no unknown time zone, no broken UTF-8),
and one such value would take its whole shard along. What cannot be carried is null and counted.
"""

import json
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_HEX_BYTES: Final = 64
"""Longer values that are no text are no digests: most are pictures, and are not carried."""
_PICTURES: Final = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")
_NO_TEXT: Final = r"[\x00-\x08\x0e-\x1f]"
_OUT_OF_RANGE: Final = "<value out of range"  # what Arrow writes for dates it cannot write
_NAMES: Final = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPES: Final = {
    "\\": "\\\\",
    '"': '\\"',
    **{chr(code): _NAMES.get(chr(code), f"\\u{code:04x}") for code in range(32)},
}


@dataclass
class LostValues:
    """How many values were not carried."""

    values: int = 0

    def nulled(self, before: pa.Array, after: pa.Array) -> pa.Array:
        """`after`, whose additional nulls are counted."""
        self.values += after.null_count - before.null_count
        return after


def text_of(array: pa.Array, losses: LostValues) -> pa.Array:
    """A column as strings: nested values as JSON, bytes that are no text in hex, if they are few.

    Raises:
        ArrowException: something in it is refused late; narrow it to the row.
    """
    array = plain(array)
    kind = array.type
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.string())
    if pa.types.is_nested(kind):
        return _json_of(array, losses)
    return _leaf_text(array, losses)


def plain(array: pa.Array) -> pa.Array:
    """Without extension types, dictionaries, run lengths and views."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return plain(array.storage)
    if pa.types.is_dictionary(kind):
        return plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(array))
    if kind == pa.string_view():
        return array.cast(pa.large_string())
    if kind == pa.binary_view():
        return array.cast(pa.large_binary())
    return array


def is_text(kind: pa.DataType) -> bool:
    """Whether it is one of the string types."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()
    )


def is_bytes(kind: pa.DataType) -> bool:
    """Whether it is one of the binary types of no fixed length."""
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or kind == pa.binary_view()
    )


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether there are bytes anywhere in it."""
    if isinstance(kind, pa.BaseExtensionType):
        return holds_bytes(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return holds_bytes(kind.value_type)
    if pa.types.is_nested(kind):
        return any(holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return is_bytes(kind)


def _leaf_text(array: pa.Array, losses: LostValues) -> pa.Array:
    kind = array.type
    if is_text(kind):
        return losses.nulled(array, _valid_text(array))
    if pa.types.is_fixed_size_binary(kind) or is_bytes(kind):
        return losses.nulled(array, _bytes_text(array))
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return losses.nulled(array, _in_range(_zoned_text(array)))
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        if pa.types.is_interval(kind):  # Arrow cannot write it
            return losses.nulled(array, pa.nulls(len(array), pa.string()))
        return losses.nulled(array, _in_range(pc.cast(array, pa.string())))
    if pa.types.is_duration(kind):
        array = array.cast(pa.int64())
    return pc.cast(array, pa.string())


def _valid_text(array: pa.Array) -> pa.Array:
    """Null where the bytes are no UTF-8: halves of the array are tried until the value is found."""
    try:
        array.validate(full=True)
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        if len(array) == 1:
            return pa.nulls(1, pa.string())
        half = len(array) // 2
        return pa.concat_arrays([_valid_text(array[:half]), _valid_text(array[half:])])


def _bytes_text(array: pa.Array) -> pa.Array:
    if pa.types.is_fixed_size_binary(array.type):
        return _hex(array)
    array = array.cast(pa.large_binary())
    strings = pa.LargeStringArray.from_buffers(
        len(array), *array.buffers()[1:], array.buffers()[0], offset=array.offset
    )
    texts = _valid_text(strings)
    is_none = pc.match_substring_regex(texts, _NO_TEXT)
    texts = pc.if_else(is_none, pa.scalar(None, pa.string()), texts)
    if texts.null_count == array.null_count:
        return texts
    is_digest = pc.and_(pc.and_(pc.is_null(texts), pc.is_valid(array)), pc.invert(_is_large(array)))
    hexed = pc.replace_with_mask(
        pa.nulls(len(array), pa.string()), is_digest, _hex(array.filter(is_digest))
    )
    return pc.coalesce(texts, hexed)


def has_pictures(array: pa.Array) -> bool:
    """Whether bytes in it, however deep, are no text and too long for a digest, or a picture's."""
    array = plain(array)
    if pa.types.is_nested(array.type):
        return any(has_pictures(child) for child in _children(array))
    if not is_bytes(array.type):
        return False
    array = array.cast(pa.large_binary())
    return bool(_bytes_text(array).null_count > array.null_count)


def _is_large(array: pa.Array) -> pa.Array:
    large = pc.greater(pc.binary_length(array), MAX_HEX_BYTES)
    for start in _PICTURES:
        large = pc.or_(large, pc.starts_with(array, start))
    return large


def _hex(array: pa.Array) -> pa.Array:
    """Hex digits of each value; the values of a row lie side by side."""
    lengths = pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)
    joined = pc.binary_join(
        pa.LargeListArray.from_arrays(
            pa.array([0, len(array)], pa.int64()), pc.fill_null(array.cast(pa.large_binary()), b"")
        ),
        pa.scalar(b"", pa.large_binary()),
    )
    digits = bytes(memoryview(joined[0].as_buffer())).hex().encode() if len(array) else b""
    offsets = np.concatenate([[0], np.cumsum(2 * lengths.astype(np.int64))])
    texts = pa.LargeStringArray.from_buffers(
        len(array), pa.py_buffer(offsets), pa.py_buffer(digits)
    ).cast(pa.string())
    return pc.if_else(pc.is_valid(array), texts, pa.scalar(None, pa.string()))


def _zoned_text(array: pa.Array) -> pa.Array:
    try:
        return pc.cast(array, pa.string())
    except pa.ArrowInvalid:  # no such time zone: the instant is known all the same
        instants = array.cast(pa.timestamp(array.type.unit))
        return pc.binary_join_element_wise(pc.cast(instants, pa.string()), "Z", "")


def _in_range(texts: pa.Array) -> pa.Array:
    is_out = pc.starts_with(texts, _OUT_OF_RANGE)
    return pc.if_else(is_out, pa.scalar(None, pa.string()), texts)


def _children(array: pa.Array) -> list[pa.Array]:
    if pa.types.is_struct(array.type):
        return list(array.flatten())
    if pa.types.is_map(array.type):
        return [array.keys, array.items]
    return [pc.list_flatten(array)]


def _json_of(array: pa.Array, losses: LostValues) -> pa.Array:
    """Each value as JSON; null stays null."""
    array = plain(array)
    kind = array.type
    if pa.types.is_struct(kind):
        texts = _struct_json(array, losses)
    elif pa.types.is_map(kind):
        texts = _list_json(array.cast(as_pairs(kind)), losses, as_pairs=True)
    elif pa.types.is_nested(kind):
        texts = _list_json(array, losses)
    elif pa.types.is_null(kind):
        return pa.nulls(len(array), pa.string())
    elif pa.types.is_floating(kind):
        return _number_json(array)
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pc.cast(array, pa.string())
    elif pa.types.is_duration(kind):
        return pc.cast(array.cast(pa.int64()), pa.string())
    else:
        return _quoted(_leaf_text(array, losses))
    return pc.if_else(pc.is_valid(array), texts, pa.scalar(None, pa.string()))


def _struct_json(array: pa.Array, losses: LostValues, *, as_pairs: bool = False) -> pa.Array:
    start, end = ("[", "]") if as_pairs else ("{", "}")
    parts: list[pa.Array | str] = [start]
    for index, child in enumerate(array.flatten()):
        name = "" if as_pairs else json.dumps(array.type.field(index).name, ensure_ascii=False)
        parts.append((", " if index else "") + (name if as_pairs else f"{name}: "))
        parts.append(pc.fill_null(_json_of(child, losses), "null"))
    if len(parts) == 1:
        return pa.array(["{}"] * len(array), pa.string())
    return pc.binary_join_element_wise(*parts, end, "")


def _list_json(array: pa.Array, losses: LostValues, *, as_pairs: bool = False) -> pa.Array:
    values = pc.list_flatten(array)
    texts = _struct_json(values, losses, as_pairs=True) if as_pairs else _json_of(values, losses)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths.astype(np.int64))])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pc.fill_null(texts, "null"))
    return pc.binary_join_element_wise("[", pc.binary_join(lists, ", "), "]", "")


def as_pairs(kind: pa.DataType) -> pa.DataType:
    """A map's type as that of lists of its pairs."""
    return pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))


def _number_json(array: pa.Array) -> pa.Array:
    texts = pc.cast(array.cast(pa.float64()), pa.string())
    for pattern, written in (
        (r"^(-?[0-9]+)$", r"\1.0"),
        (r"^-?nan$", "NaN"),
        (r"^(-?)inf$", r"\1Infinity"),
    ):
        texts = pc.replace_substring_regex(texts, pattern, written)
    return texts


def _quoted(texts: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(texts, r'[\x00-\x1f"\\]')).as_py():
        for sign, escaped in _ESCAPES.items():
            texts = pc.replace_substring(texts, sign, escaped)
    return pc.binary_join_element_wise('"', texts, '"', "")
