"""Packs and their index: what is stored comes back to the bit, each caption once."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_core.cache import text_index
from sd_core.cache.samples import CacheShardError
from sd_core.cache.text_index import TextIndex, join_index_files, read_index_file
from sd_core.cache.text_packs import PackForm, PackReader, TextEntry, caption_hash, write_pack

_FORMS = [
    PackForm(embed_dim=8, pooled_dim=4, dtype="float16"),
    PackForm(embed_dim=8, pooled_dim=0, dtype="bfloat16"),
    PackForm(embed_dim=0, pooled_dim=3, dtype="float32"),
    PackForm(embed_dim=0, pooled_dim=0, dtype="float16"),
]


def _entries(form: PackForm, count: int = 150) -> list[TextEntry]:
    rng = np.random.default_rng(count)
    found = []
    for number in range(count):
        length = int(rng.integers(2, 20))
        numbers = rng.integers(0, 0x3C00, (length + 1, 8)).astype(np.uint16)
        if form.dtype == "float32":
            numbers = numbers.astype(np.float32)
        values = numbers.view(form.numpy_dtype)
        found.append(
            TextEntry(
                sha256=caption_hash(f"caption {number}"),
                length=length,
                input_ids=np.arange(length, dtype=np.int32),
                embeds=values[:length, : form.embed_dim] if form.embed_dim else None,
                pooled=values[length, : form.pooled_dim] if form.pooled_dim else None,
            )
        )
    return found


def _open(path: Path, form: PackForm) -> PackReader:
    return PackReader(io.FileIO(path), form, name=path.name)


@pytest.mark.parametrize("form", _FORMS, ids=str)
def test_entries_come_back_to_the_bit_in_any_order(tmp_path: Path, form: PackForm) -> None:
    entries = _entries(form)
    for name in ("a", "b"):
        assert write_pack(tmp_path / name, entries, form) == len(entries)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    reader = _open(tmp_path / "a", form)
    assert reader.hashes == [entry.sha256 for entry in entries]
    for row in np.random.default_rng(0).permutation(len(entries)).tolist():
        found, expected = reader.read(row), entries[row]
        assert (found.sha256, found.length) == (expected.sha256, expected.length)
        for one, other in zip(_arrays(found), _arrays(expected), strict=True):
            np.testing.assert_array_equal(one, other)
    reader.close()


def _arrays(entry: TextEntry) -> list[np.ndarray]:
    return [one for one in (entry.input_ids, entry.embeds, entry.pooled) if one is not None]


def test_a_flipped_byte_of_an_array_is_found_when_it_is_read(tmp_path: Path) -> None:
    form, path = _FORMS[0], tmp_path / "pack"
    entries = _entries(form, 100)
    write_pack(path, entries, form)
    whole = path.read_bytes()
    wanted = entries[70].embeds
    assert wanted is not None
    place = whole.index(wanted.tobytes())
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    reader = _open(path, form)
    reader.read(3)  # of another row group
    with pytest.raises(CacheShardError, match=f"{entries[64].sha256.hex()}: damaged pack: CRC"):
        reader.read(64)
    reader.close()
    path.write_bytes(whole[:-40])
    with pytest.raises(CacheShardError, match="pack: damaged pack"):
        _open(path, form)
    path.write_bytes(whole)
    with pytest.raises(CacheShardError, match="its columns are"):
        _open(path, _FORMS[1])


@pytest.mark.parametrize("form", _FORMS[:3], ids=str)
def test_what_is_not_finite_or_of_another_shape_is_refused_by_its_hash(
    tmp_path: Path, form: PackForm
) -> None:
    name = form.arrays[0]
    good = _entries(form, 1)[0]
    array = getattr(good, name).copy()
    array.flat[0] = 0x7F80 if form.dtype == "bfloat16" else np.inf
    for wrong, said in ((array, "not finite"), (array[..., 1:], "the pack's")):
        entry = TextEntry(**{**vars(good), name: wrong})
        with pytest.raises(ValueError, match=f"{good.sha256.hex()}: .*{said}"):
            write_pack(tmp_path / "pack", [entry], form)


@settings(max_examples=60, deadline=None)
@given(packs=st.lists(st.lists(st.integers(0, 40), max_size=12, unique=True), max_size=6))
def test_an_index_finds_each_caption_once_where_it_first_lay(packs: list[list[int]]) -> None:
    index, first = TextIndex.empty(), dict[int, tuple[int, int]]()
    for number, captions in enumerate(packs):
        hashes = [caption_hash(str(caption)) for caption in captions]
        index = index.with_entries([TextIndex.of_pack(hashes, captions, pack=number)])
        for row, caption in enumerate(captions):
            first.setdefault(caption, (number, row))
    assert len(index) == len(first)
    places = index.find([caption_hash(str(caption)) for caption in range(41)])
    for caption, place in enumerate(places.tolist()):
        assert (place >= 0) == (caption in first)
        if place >= 0:
            assert (index.packs[place], index.rows[place]) == first[caption]
            assert index.lengths[place] == caption
    rest = index.without([caption_hash(str(caption)) for caption in range(20)])
    assert len(rest) == sum(caption >= 20 for caption in first)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_an_index_of_many_files_is_the_same_and_its_order_is_checked(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_index, "ENTRIES_PER_FILE", 10)
    hashes = [caption_hash(str(number)) for number in range(count)]
    index = TextIndex.of_pack(hashes, range(count), pack=0)
    files = index.files()
    assert len(files) == {0: 1, 1: 1, 300: 256}[count]
    parts = [read_index_file(files[prefix], name=prefix) for prefix in sorted(files)]
    whole = join_index_files(parts)
    np.testing.assert_array_equal(whole.hashes, index.hashes)
    np.testing.assert_array_equal(whole.rows, index.rows)
    if count > 1:
        backwards = TextIndex(
            hashes=index.hashes[::-1], packs=index.packs, rows=index.rows, lengths=index.lengths
        )
        monkeypatch.undo()
        with pytest.raises(CacheShardError, match="not in order"):
            read_index_file(backwards.files()[""], name="index")
        flipped = bytearray(index.files()[""])
        flipped[60] ^= 1
        with pytest.raises(CacheShardError, match="not a text index"):
            read_index_file(bytes(flipped), name="index")
