"""Random access to shards: what is read, what damage is called, where copies go."""

import io
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from sd_core.cache.dataset import TrainingDataset
from sd_core.cache.formats import CACHE_FORMATS
from sd_core.cache.latent_cache import LatentCache, open_cache
from sd_core.cache.reading import open_shard_reader
from sd_core.cache.samples import CacheShardError
from tests.sd_core.cache.caches import reindex, write_cache
from tests.sd_core.cache.cases import make_spec
from tests.sd_core.cache.test_shards import assert_equal

FORMATS = ["webdataset", "parquet"]


def make_cache(tmp_path: Path, *, rows: int = 20, **spec: Any) -> LatentCache:
    write_cache(str(tmp_path / "run"), tmp_path, make_spec(**spec), shard_rows=[rows])
    return open_cache(str(tmp_path / "run" / "latents"))


def rewrite(cache: LatentCache, change: Callable[[bytes], bytes]) -> LatentCache:
    """Change the only shard, and its index with it, so that only its content can tell."""
    path = Path(cache.shards[0].path)
    path.write_bytes(change(path.read_bytes()))
    reindex(path.parent)
    return open_cache(cache.path)


def read_all(cache: LatentCache) -> list[Any]:
    """Every row once, by the dataset itself."""
    batches = TrainingDataset([cache], weights=[1.0], seed=0, num_streams=1).batches(
        batch_size=cache.num_rows
    )
    try:
        return [sample.sample for sample in next(batches)]
    finally:
        batches.close()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("prompt_embeds", [True, False])
@pytest.mark.parametrize("url", ["{tmp}/run", "memory://{tmp}/run"])
def test_any_row_is_read_in_any_order(
    tmp_path: Path, kind: str, dtype: str, prompt_embeds: bool, url: str
) -> None:
    spec = make_spec(format=kind, dtype=dtype, prompt_embeds=prompt_embeds)
    url = url.format(tmp=tmp_path)
    samples = write_cache(url, tmp_path, spec, shard_rows=[150])
    cache = open_cache(f"{url}/latents")
    reader = open_shard_reader(cache, cache.shards[0])
    assert reader.num_rows == 150
    for row in [149, 0, 64, 63, 0, *range(150)]:
        assert_equal(reader.read(row), samples[row])
    reader.close()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_row_outlives_its_shard_and_may_be_changed(tmp_path: Path, kind: str) -> None:
    cache = make_cache(tmp_path, format=kind)
    reader = open_shard_reader(cache, cache.shards[0])
    one, other = reader.read(3), reader.read(3)
    reader.close()
    one.raw_latents[:] = 0
    one.input_ids[:] = 0
    assert other.raw_latents.any()
    assert other.input_ids.any()


def test_parquet_of_another_writer_is_read_too(tmp_path: Path) -> None:
    spec = make_spec(format="parquet")
    samples = write_cache(str(tmp_path), tmp_path, spec, shard_rows=[150])
    path = next((tmp_path / "latents").glob("*-*.parquet"))
    table = pq.read_table(path)
    ways: list[dict[str, Any]] = [
        {"compression": "zstd"},
        {"compression": "none", "use_dictionary": True},
        {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"},
        {"compression": "none", "use_dictionary": False, "data_page_size": 1000},
        {"compression": "none", "use_dictionary": False, "row_group_size": 40},
    ]
    for way in ways:
        pq.write_table(table, path, **way)
        reindex(path.parent)
        cache = open_cache(str(path.parent))
        reader = open_shard_reader(cache, cache.shards[0])
        for row in [149, 0, 80, *range(0, 150, 7)]:
            assert_equal(reader.read(row), samples[row])
        reader.close()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("field", ["raw_latents", "prompt_embeds"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_by_its_key(
    tmp_path: Path, kind: str, field: str, dtype: str, value: float
) -> None:
    cache = make_cache(tmp_path, format=kind, dtype=dtype)
    before = getattr(
        next(one for one in read_all(cache) if one.key == f"{7:016x}"), field
    ).tobytes()
    after = np.frombuffer(before, dtype).copy()
    after[5] = value

    def poison(content: bytes) -> bytes:
        assert content.count(before) == 1
        return without_checksums(content.replace(before, after.tobytes()), kind)

    poisoned = rewrite(cache, poison)
    name = "latents" if field == "raw_latents" else field
    message = rf"latents/\S+: 0000000000000007: {name} holds NaN or infinity"
    with pytest.raises(CacheShardError, match=message):
        read_all(poisoned)


def without_checksums(content: bytes, kind: str) -> bytes:
    """The same Parquet file as a writer without page checksums makes it."""
    if kind != "parquet":
        return content
    sink = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(content)), sink, compression="none")
    return sink.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: b"x" * 5000,
        lambda content: bytes(10240),
        lambda content: content[: len(content) // 2 + 100],
        lambda content: content[:-10752] + b"y" * 10752,
    ],
    ids=["empty", "foreign", "zeros", "cut", "end"],
)
def test_damage_is_named_with_the_shard(
    tmp_path: Path, kind: str, change: Callable[[bytes], bytes]
) -> None:
    cache = rewrite(make_cache(tmp_path, format=kind), change)
    name = Path(cache.shards[0].path).name
    with pytest.raises(CacheShardError, match=rf"run/latents/{name}: "):
        read_all(cache)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_shard_of_another_spec_is_refused(tmp_path: Path, kind: str) -> None:
    cache = make_cache(tmp_path, format=kind)
    with pytest.raises(CacheShardError, match=rf"latents/\S+{CACHE_FORMATS[kind].suffix}: "):
        read_all(replace(cache, spec=make_spec(format=kind, form="mean")))
    with pytest.raises(CacheShardError, match=rf"latents/\S+{CACHE_FORMATS[kind].suffix}: "):
        read_all(replace(cache, spec=make_spec(format=kind, dtype="float32")))


@pytest.mark.parametrize("kind", FORMATS)
def test_another_number_of_rows_than_the_index_says_is_refused(tmp_path: Path, kind: str) -> None:
    cache = make_cache(tmp_path, format=kind)
    shard = replace(cache.shards[0], num_rows=21)
    with pytest.raises(CacheShardError, match="20 rows, the index says 21"):
        read_all(replace(cache, shards=(shard,)))


def test_a_flipped_bit_in_parquet_is_found(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, format="parquet")
    latents = read_all(cache)[0].raw_latents.tobytes()

    def flip(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[content.index(latents) + 10] ^= 1
        return bytes(changed)

    with pytest.raises(CacheShardError, match=r"[0-9a-f]{16}: damaged Parquet: CRC mismatch"):
        read_all(rewrite(cache, flip))


def test_a_flipped_bit_in_a_tar_header_is_found(tmp_path: Path) -> None:
    def flip(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[content.index(b"0000000000000003.txt") + 3] ^= 1
        return bytes(changed)

    with pytest.raises(CacheShardError, match=r"damaged tar: the header at byte .* checksum"):
        read_all(rewrite(make_cache(tmp_path), flip))


def test_a_row_that_lacks_a_member_is_named(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, prompt_embeds=False)
    wants_embeds = replace(cache, spec=make_spec())
    with pytest.raises(CacheShardError, match="0000000000000000 lacks its member 'prompt_embeds"):
        read_all(wants_embeds)


def test_a_shard_that_is_deleted_or_changed_after_opening_is_named(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    path = Path(cache.shards[0].path)
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(CacheShardError, match=rf"{path.name}: it changed after"):
        read_all(cache)
    path.unlink()
    with pytest.raises(
        CacheShardError, match=rf"{path.name}: cannot be read \(FileNotFoundError: No such file"
    ):
        read_all(cache)


def test_a_remote_copy_is_held_to_its_hash(tmp_path: Path) -> None:
    url = f"memory://{tmp_path}/hash"
    write_cache(url, tmp_path, make_spec(), shard_rows=[5])
    cache = open_cache(f"{url}/latents")
    filesystem, path = fsspec.core.url_to_fs(f"{url}/latents")
    (path,) = filesystem.glob(f"{path}/*.tar")
    content = bytearray(filesystem.cat_file(path))
    content[700] ^= 1  # inside the first row's latents, where a tar has no checksum
    filesystem.pipe_file(path, bytes(content))
    with pytest.raises(CacheShardError, match="damaged, its SHA-256 is not the index's"):
        read_all(cache)


@pytest.mark.parametrize("kind", FORMATS)
def test_copies_leave_no_file_behind(tmp_path: Path, kind: str) -> None:
    url = f"memory://{tmp_path}/scratch"
    write_cache(url, tmp_path, make_spec(format=kind), shard_rows=[30, 30, 30])
    cache = open_cache(f"{url}/latents")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = set(os.listdir("/proc/self/fd"))
    batches = TrainingDataset([cache], weights=[1.0], seed=0, scratch=scratch).batches(batch_size=8)
    assert len(list(islice(batches, 5))) == 5
    assert list(scratch.iterdir()) == []  # even now: a killed trainer leaves nothing
    batches.close()
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("kind", FORMATS)
def test_any_flipped_byte_is_read_as_it_is_or_named(tmp_path: Path, kind: str) -> None:
    cache = make_cache(tmp_path, rows=3, format=kind)
    path = Path(cache.shards[0].path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    errors = []
    for position in generator.integers(0, len(whole), 150).tolist():
        changed = bytearray(whole)
        changed[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(changed)
        try:
            assert len(read_all(cache)) == 3
        except CacheShardError as error:
            errors.append(str(error))
    assert len(errors) >= 10
    assert all(path.name in error for error in errors)
