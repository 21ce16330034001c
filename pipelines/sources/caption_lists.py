"""Captions that are lists of texts: the first makes the key, and one is chosen."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.arrow_text import LostValues, is_text, plain
from pipelines.sources.columns import as_text, clean_text

CaptionChoice = Literal["first", "longest", "random"]


def is_list_of_texts(kind: pa.DataType) -> bool:
    """Whether a column of that type holds lists of texts."""
    kind = _stored(kind)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    is_list = is_list or pa.types.is_fixed_size_list(kind)
    return is_list and is_text(_stored(kind.value_type))


def _stored(kind: pa.DataType) -> pa.DataType:
    """What a type holds that wraps another."""
    if isinstance(kind, pa.BaseExtensionType):
        return _stored(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _stored(kind.value_type)
    return kind


def caption_lists(array: pa.Array, losses: LostValues) -> pa.Array:
    """A column of lists of texts as `large_list<string>`; texts that are no UTF-8 are mended and
    counted."""
    array = plain(array)
    texts = as_text(pc.list_flatten(array), losses)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths.astype(np.int64))])
    return pa.LargeListArray.from_arrays(pa.array(offsets), texts)


def listed_captions(values: Sequence[object], choice: CaptionChoice | None) -> pa.Array | None:
    """The lists of texts among parsed JSON values, null for others; None where there is none, or
    nothing says which caption of them is meant."""
    if choice is None or not any(map(is_listed, values)):
        return None
    lists = [
        [clean_text(text) for text in value] if isinstance(value, list) else None
        for value in values
    ]
    return pa.array(lists, pa.large_list(pa.string()))


def is_listed(value: object) -> bool:
    """Whether a parsed JSON value is a list of texts."""
    return isinstance(value, list) and all(text is None or isinstance(text, str) for text in value)


def first_captions(lists: pa.Array, others: pa.Array) -> pa.Array:
    """The first caption of each list that is not blank; of a row without one, the other."""
    pairs = zip(_usable(lists), others.to_pylist(), strict=True)
    return pa.array([found[0] if found else other for found, other in pairs], pa.string())


def chosen_captions(
    lists: pa.Array, captions: pa.Array, choice: CaptionChoice, keys: npt.NDArray[np.bytes_]
) -> pa.Array:
    """The caption that each row has.

    Args:
        lists: Lists of texts; null where a row has but one caption.
        captions: The first ones, of which the keys are made.
        choice: Which; of several longest the first.
        keys: `hash_keys` of the rows, which decide what is random.
    """
    if choice == "first":
        return captions
    found = captions.to_pylist()
    for row, texts in enumerate(_usable(lists)):
        if texts and choice == "longest":
            found[row] = max(texts, key=len)
        elif texts:
            drawn = hashlib.blake2b(keys[row].ljust(8, b"\0"), digest_size=8, person=b"caption")
            found[row] = texts[int.from_bytes(drawn.digest()) % len(texts)]
    return pa.array(found, pa.string())


def _usable(lists: pa.Array) -> list[list[str]]:
    return [[t for t in texts or () if t and t.strip()] for texts in lists.to_pylist()]
