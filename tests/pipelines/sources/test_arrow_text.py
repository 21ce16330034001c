"""Columns as text by Arrow alone: what Python's json reads back is what was there."""

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.arrow_text import LostValues, has_pictures, text_of
from pipelines.sources.columns import carry

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
LEAVES = st.fixed_dictionaries(
    {
        'na"me': st.none() | TEXTS,
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "x": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "flag": st.none() | st.booleans(),
    }
)
ROWS = st.lists(st.none() | st.lists(st.none() | LEAVES, max_size=4), min_size=1, max_size=6)
KIND = pa.list_(
    pa.struct(
        [('na"me', pa.string()), ("n", pa.int64()), ("x", pa.float64()), ("flag", pa.bool_())]
    )
)


@settings(max_examples=60)
@given(rows=ROWS, first=st.integers(0, 3))
def test_nested_values_are_json_that_reads_back(rows: list[Any], first: int) -> None:
    array = pa.array(rows, KIND)[first:]
    losses = LostValues()
    texts = text_of(array, losses).to_pylist()
    assert [text if text is None else json.loads(text) for text in texts] == rows[first:]
    assert losses.values == 0


@pytest.mark.parametrize("kind", [pa.list_view(KIND), pa.large_list(KIND), pa.list_(KIND, 2)])
def test_every_kind_of_list_is_a_json_list(kind: pa.DataType) -> None:
    values = [[[{'na"me': "a\n", "n": 1, "x": 0.5, "flag": True}], None], None, [[], [None]]]
    texts = text_of(pa.array(values, kind), LostValues()).to_pylist()
    assert [text if text is None else json.loads(text) for text in texts] == values


def test_types_of_dictionaries_runs_and_views_are_seen_through() -> None:
    words = pa.array(["a", None, "a"])
    struct = pa.StructArray.from_arrays(
        [
            words.dictionary_encode(),
            words.cast(pa.string_view()),
            pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["r", "s"])),
        ],
        ["dictionary", "view", "runs"],
    )
    texts = text_of(struct, LostValues()).to_pylist()
    assert json.loads(texts[2]) == {"dictionary": "a", "view": "a", "runs": "s"}


def test_only_the_values_that_arrow_refuses_are_null() -> None:
    losses = LostValues()
    found = carry(pa.array(["1", "x", "", None, "7"]), "int64", losses)
    assert found.to_pylist() == [1, None, None, None, 7]
    assert losses.values == 1


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        (b"text, however long" * 10, False),
        (bytes(range(200, 232)), False),
        (bytes(range(200, 232)) * 3, True),
        (b"\xff\xd8\xff\xe0", True),
        ("é".encode("latin-1") * 70, True),
    ],
)
def test_pictures_are_bytes_that_are_neither_text_nor_a_digest(value: bytes, is_one: bool) -> None:
    array = pa.array([value])
    assert has_pictures(array) is is_one
    nested = pa.StructArray.from_arrays([pa.array([[value]])], ["a"])
    assert has_pictures(nested) is is_one
