"""Keys: stable, told apart by every byte of the URL and caption."""

import hashlib
import string

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.rows import keys
from pipelines.rows.keys import hash_keys, hash_rows, hex_keys, key_texts
from tests.row_keys import row_key

MAYBE_TEXT = st.one_of(st.none(), st.text(max_size=20))
URLS = st.text(string.printable, max_size=20)


def test_key_is_pinned_because_stored_runs_depend_on_it() -> None:
    assert row_key("https://a.example/1.jpg", caption="a cat") == "edecfae9c56b54ea"
    assert row_key("https://a.example/1.jpg", caption=None) == "bd26b00219e67a27"
    assert row_key(None, caption="a cat", source_name="0.tar", name="000001") == "c832f6d81772fa77"


def test_key_is_blake2b_of_length_prefixed_url_and_caption() -> None:
    text = (
        b"\x01" + (3).to_bytes(8, "little") + b"url" + b"\x01" + (2).to_bytes(8, "little") + b"ab"
    )
    assert row_key("url", caption="ab") == hashlib.blake2b(text, digest_size=8).hexdigest()


@given(url=URLS, caption=MAYBE_TEXT, other_url=URLS, other_caption=MAYBE_TEXT)
def test_rows_share_a_key_only_if_url_and_caption_are_the_same(
    url: str, caption: str | None, other_url: str, other_caption: str | None
) -> None:
    same = (url, caption) == (other_url, other_caption)
    assert (row_key(url, caption=caption) == row_key(other_url, caption=other_caption)) == same


def test_text_moved_from_url_to_caption_changes_the_key() -> None:
    assert row_key("ab", caption="c") != row_key("a", caption="bc")
    assert row_key("a", caption=None) != row_key("a", caption="")
    assert row_key("HTTP://a", caption="") != row_key("http://a", caption="")


@given(st.lists(st.tuples(st.one_of(st.none(), URLS), MAYBE_TEXT), max_size=8))
def test_columns_give_the_keys_of_their_rows(rows: list[tuple[str | None, str | None]]) -> None:
    names = [str(number) for number in range(len(rows))]
    texts = key_texts(
        pa.array([url for url, _ in rows], pa.string()),
        captions=pa.array([caption for _, caption in rows], pa.string()),
        source_name="f",
        names=names,
    )
    assert hex_keys(hash_keys(texts)).to_pylist() == [
        row_key(url, caption=caption, source_name="f", name=name)
        for (url, caption), name in zip(rows, names, strict=True)
    ]


def test_a_key_of_zeros_keeps_its_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "blake2b_64", lambda _: bytes(8))
    hashes = hash_rows([b"a", b"b"])
    assert hex_keys(hashes.key).to_pylist() == ["0" * 16, "0" * 16]


def test_ten_thousand_real_rows_have_as_many_keys(shared_data) -> None:  # type: ignore[no-untyped-def]
    rows = pq.read_table(shared_data / "metadata" / "img2dataset_test_10000.parquet")
    texts = key_texts(
        rows["URL"].combine_chunks(),
        captions=rows["TEXT"].combine_chunks(),
        source_name="",
        names=map(str, range(rows.num_rows)),
    )
    assert len(set(hex_keys(hash_keys(texts)).to_pylist())) == len(set(texts))
