"""Caches of many sizes: batches of one size, every row once an epoch, for any number of workers."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_core.cache import unit_dataset
from sd_core.cache.latent_cache import CacheShard, LatentCache, open_cache
from sd_core.cache.reading import open_shard_reader
from sd_core.cache.samples import CacheShardError
from sd_core.cache.shard_format import ShardReader
from sd_core.cache.spec import CacheMismatchError, CacheSpecError
from sd_core.cache.unit_dataset import DrawnUnit, UnitDataset
from tests.sd_core.cache.caches import write_cache
from tests.sd_core.cache.cases import BUCKETS, make_bucket_spec, make_spec
from tests.sd_core.cache.test_shards import assert_equal

FORMATS = ["webdataset", "parquet"]


def make_cache(
    tmp_path: Path, *, shard_rows: Sequence[int] = (40, 25, 35), seed: int = 0, **spec: Any
) -> LatentCache:
    run, shaped = tmp_path / f"run-{seed}", make_bucket_spec(**spec)
    write_cache(str(run), tmp_path, shaped, shard_rows=list(shard_rows), seed=seed)
    return open_cache(str(run / "latents"))


def draw(
    caches: Sequence[LatentCache], *, steps: int, units: int = 4, start: int = 0, **more: Any
) -> list[DrawnUnit]:
    options: dict[str, Any] = {"weights": [1.0] * len(caches), "seed": 3, "num_streams": 8, **more}
    dataset = UnitDataset(caches, rows_per_unit=4, **options)
    drawn = dataset.steps(units_per_step=units, start_step=start)
    found = [unit for step in islice(drawn, steps) for unit in step]
    drawn.close()
    return found


def places(units: Sequence[DrawnUnit]) -> list[tuple[Any, ...]]:
    return [
        (one.index, one.cache_index, one.epoch, one.num_rows, *(s.key for s in one.samples))
        for one in units
    ]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_row_counts_once_an_epoch_as_it_was_written_in_units_of_one_size(
    tmp_path: Path, kind: str
) -> None:
    spec = make_bucket_spec(format=kind)
    samples = write_cache(str(tmp_path / "run"), tmp_path, spec, shard_rows=[40, 25, 31])
    written = {sample.key: sample for sample in samples}
    assert len({sample.raw_latents.shape for sample in samples}) == len(BUCKETS)
    cache = open_cache(str(tmp_path / "run" / "latents"))
    per_epoch = sum(-(-sum(s.bucket_rows[k] for s in cache.shards) // 4) for k in range(3))
    units = draw([cache], steps=2 * per_epoch, units=1)
    for epoch in range(2):
        ours = [one for one in units if one.epoch == epoch]
        assert len(ours) == per_epoch
        counted = [sample for one in ours for sample in one.samples[: one.num_rows]]
        assert sorted(sample.key for sample in counted) == sorted(written)
        for one in ours:
            assert len({sample.raw_latents.shape for sample in one.samples}) == 1
            for sample in one.samples:
                assert_equal(sample, written[sample.key])
    first, second = (places([o for o in units if o.epoch == epoch]) for epoch in range(2))
    assert [place[4:] for place in first] != [place[4:] for place in second]


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_the_order_depends_neither_on_the_workers_nor_on_where_it_is_taken_up(
    tmp_path: Path, world_size: int
) -> None:
    caches = [make_cache(tmp_path), make_cache(tmp_path, seed=1, shard_rows=[19, 30])]
    options: dict[str, Any] = {"steps": 8, "units": 8, "weights": [3, 1]}
    alone = places(draw(caches, **options))
    ranks = [
        place
        for rank in range(world_size)
        for place in places(draw(caches, **options, rank=rank, world_size=world_size))
    ]
    assert sorted(ranks) == alone
    for start in (1, 5):
        rest = draw(caches, **{**options, "steps": 8 - start}, start=start)
        assert places(rest) == alone[8 * start :]


def test_what_does_not_belong_together_is_refused_before_a_row_is_read(tmp_path: Path) -> None:
    many = make_cache(tmp_path)
    run = tmp_path / "square"
    write_cache(str(run), tmp_path, make_spec(), shard_rows=[9])
    square = open_cache(str(run / "latents"))
    with pytest.raises(CacheMismatchError, match=r"resolution_px: 16 in .*several \(buckets\) in"):
        UnitDataset([many, square], weights=[1, 1], rows_per_unit=4, seed=0)
    for wrong in ({"rows_per_unit": 0}, {"weights": []}, {"rank": 2, "world_size": 2}):
        options: dict[str, Any] = {"weights": [1], "rows_per_unit": 4, "seed": 0, **wrong}
        with pytest.raises(ValueError, match=r"weight|at least"):
            UnitDataset([many], **options)


def test_an_index_that_does_not_tell_the_buckets_is_refused(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    path = Path(cache.path) / "index.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0]["bucket_rows"][0] += 1
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(CacheSpecError, match=r"has 40 rows, .* by bucket"):
        open_cache(cache.path)
    pq.write_table(pq.read_table(path).drop_columns(["bucket_rows"]), path)
    with pytest.raises(CacheSpecError, match="no column bucket_rows"):
        open_cache(cache.path)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_row_that_is_damaged_is_named_with_its_shard(tmp_path: Path, kind: str) -> None:
    cache = make_cache(tmp_path, shard_rows=[40], format=kind)
    shard = Path(cache.shards[0].path)
    content = bytearray(shard.read_bytes())
    place = content.index(draw([cache], steps=1, units=1)[0].samples[0].raw_latents.tobytes())
    content[place : place + 2] = np.float16(np.inf).tobytes()
    shard.write_bytes(bytes(content))
    with pytest.raises(CacheShardError, match=shard.name):
        draw([cache], steps=40, units=1)


def test_a_remote_cache_opens_each_shard_few_times_an_epoch_and_says_so_of_the_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, url, rows = make_bucket_spec(), "memory://units/run", [25] * 16
    write_cache(url, tmp_path, spec, shard_rows=rows, seed=0)
    write_cache(str(tmp_path / "run"), tmp_path, spec, shard_rows=rows, seed=0)
    remote, local = open_cache(f"{url}/latents"), open_cache(tmp_path / "run" / "latents")
    opened = list[str]()

    def count(cache: LatentCache, shard: CacheShard, **options: Any) -> ShardReader:
        opened.append(shard.path)
        return open_shard_reader(cache, shard, **options)

    monkeypatch.setattr(unit_dataset, "open_shard_reader", count)
    monkeypatch.setattr("sd_core.cache.drawing._IDLE_SHARDS", 1)
    per_epoch = sum(-(-sum(s.bucket_rows[k] for s in local.shards) // 4) for k in range(3))
    drawn = [draw([cache], steps=per_epoch, units=1) for cache in (remote, local)]
    assert places(drawn[0]) == places(drawn[1])
    told = capsys.readouterr()
    assert (told.out + told.err).count("rows that filled no unit of epoch 0 are fetched") == 1
    # Of a lane its own shards, the next one's beginning, and the tail once.
    assert len([path for path in opened if path.startswith("/units")]) <= 4 * len(rows)


def test_workers_that_do_not_divide_the_streams_there_are_are_refused(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, shard_rows=[5])
    with pytest.raises(ValueError, match="3 processes do not divide 4 streams evenly"):
        UnitDataset([cache], weights=[1], rows_per_unit=4, seed=0, num_streams=96, world_size=3)
