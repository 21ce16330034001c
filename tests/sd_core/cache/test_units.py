"""Units of one bucket: every row once an epoch, for any seed, buckets, lanes and resume."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_core.cache.order import block_counts
from sd_core.cache.unit_mixture import UnitMixture
from sd_core.cache.units import BucketUnits, Carried, Unit
from sd_core.model.buckets import BucketsConfig, bucket_of

_TABLES = st.integers(1, 5).flatmap(
    lambda buckets: st.lists(
        st.lists(st.integers(0, 9), min_size=buckets, max_size=buckets), min_size=1, max_size=12
    )
)


def _units(order: BucketUnits, epoch: int, lanes: int) -> list[Unit]:
    found = [
        unit for lane in range(lanes) for unit in order.lane(epoch, lane) if isinstance(unit, Unit)
    ]
    assert len(found) == order.num_main(epoch)
    return found + order.tail(epoch)


@settings(max_examples=150, deadline=None)
@given(table=_TABLES, m=st.integers(1, 7), lanes=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_every_row_counts_once_an_epoch_in_units_of_one_bucket(
    table: list[list[int]], m: int, lanes: int, seed: int
) -> None:
    counts = np.asarray(table)
    if not counts.sum():
        with pytest.raises(ValueError, match="without rows"):
            BucketUnits(counts, rows_per_unit=m, num_lanes=lanes, seed=seed)
        return
    order = BucketUnits(counts, rows_per_unit=m, num_lanes=lanes, seed=seed)
    ends = counts.cumsum(axis=1)
    for epoch in (0, 1, 5):
        units = _units(order, epoch, lanes)
        assert len(units) == order.units_per_epoch
        seen = list[tuple[int, int]]()
        for unit in units:
            places = list(zip(unit.shards.tolist(), unit.rows.tolist(), strict=True))
            assert len(places) == m
            assert set(places[unit.num_rows :]) <= set(places[: unit.num_rows])
            assert all(
                np.searchsorted(ends[shard], row, side="right") == unit.bucket
                for shard, row in places
            )
            seen += places[: unit.num_rows]
        every = [(shard, row) for shard, n in enumerate(counts.sum(axis=1)) for row in range(n)]
        assert sorted(seen) == every


@settings(max_examples=100, deadline=None)
@given(table=_TABLES, m=st.integers(1, 7), lanes=st.integers(1, 4), start=st.integers(0, 12))
def test_a_lane_resumes_anywhere_and_names_each_row_of_another_shard_before_it_leaves_it(
    table: list[list[int]], m: int, lanes: int, start: int
) -> None:
    counts = np.asarray(table)
    if not counts.sum():
        return
    order = BucketUnits(counts, rows_per_unit=m, num_lanes=lanes, seed=3)
    for lane in range(lanes):
        whole = [unit for unit in order.lane(1, lane) if isinstance(unit, Unit)]
        named = set[tuple[int, int]]()
        resumed = list[Unit]()
        for event in order.lane(1, lane, start=start):
            if isinstance(event, Carried):
                named |= {(event.shard_index, row) for row in event.rows.tolist()}
                continue
            resumed.append(event)
            places = set(zip(event.shards.tolist(), event.rows.tolist(), strict=True))
            assert len({shard for shard, _ in places - named}) <= 1
            assert all(shard == event.shards[-1] for shard, _ in places - named)
        assert [_places(unit) for unit in resumed] == [_places(unit) for unit in whole[start:]]


def _places(unit: Unit) -> tuple[int, list[int], list[int]]:
    return unit.bucket, unit.shards.tolist(), unit.rows.tolist()


def test_another_epoch_and_another_seed_are_another_order() -> None:
    counts = np.full((8, 3), 20)
    orders = [BucketUnits(counts, rows_per_unit=4, num_lanes=4, seed=seed) for seed in (0, 1)]
    first, later, other = (
        [_places(unit) for unit in _units(order, epoch, 4)]
        for order, epoch in ((orders[0], 0), (orders[0], 1), (orders[1], 0))
    )
    assert first != later
    assert first != other


@pytest.mark.parametrize("streams", [8, 64])
@pytest.mark.parametrize("weights", [[1.0], [3.0, 1.0], [0.6, 0.39, 0.01]])
def test_every_stretch_holds_each_caches_share_and_each_draw_comes_once(
    streams: int, weights: list[float]
) -> None:
    counts = block_counts(weights)
    mixture = UnitMixture(counts, num_streams=streams, seed=7)
    picks = [mixture.pick(unit) for unit in range(2_000 * streams)]
    for cache, count in enumerate(counts):
        draws = [draw for found, draw in picks if found == cache]
        assert sorted(draws) == list(range(2 * count * streams))
        taken = np.asarray([found == cache for found, _ in picks], float)
        for length in (250, 2_000):
            shares = np.convolve(taken[: 20 * length], np.full(length, 1 / length), "valid")
            assert np.abs(shares - count / 1_000).max() < (0.02 if length == 250 else 0.005)


def test_a_streams_own_units_hold_each_caches_share_exactly_in_every_thousand() -> None:
    counts = block_counts([2.0, 1.0])
    mixture = UnitMixture(counts, num_streams=16, seed=1)
    for stream, block in itertools.product((0, 5, 15), (0, 3)):
        found = [mixture.pick((block * 1_000 + p) * 16 + stream)[0] for p in range(1_000)]
        assert tuple(np.bincount(found, minlength=2)) == counts


def test_five_thousand_pictures_of_real_sizes_come_once_an_epoch(
    shared_data: Path,
) -> None:
    text = (shared_data / "metadata" / "laion_aesthetics_image_sizes.json").read_text()
    buckets = BucketsConfig(preset="sdxl").buckets()
    crops = [bucket_of(one["width"], one["height"], buckets) for one in json.loads(text)[:5_000]]
    assert sum(1 - crop.kept for crop in crops) / len(crops) < 0.08
    counts = np.zeros((10, len(buckets)), np.int64)
    for number, crop in enumerate(crops):
        counts[number // 500, crop.index] += 1
    order = BucketUnits(counts, rows_per_unit=8, num_lanes=64, seed=1)
    whole = [_places(unit) for epoch in (0, 1) for unit in _units_of_draws(order, epoch)]
    assert len(whole) == 2 * order.units_per_epoch
    for epoch in (0, 1):
        units = _units_of_draws(order, epoch)
        seen = {
            place
            for unit in units
            for place in list(zip(unit.shards.tolist(), unit.rows.tolist(), strict=True))[
                : unit.num_rows
            ]
        }
        assert len(seen) == sum(unit.num_rows for unit in units) == len(crops)


def _units_of_draws(order: BucketUnits, epoch: int) -> list[Unit]:
    """An epoch's units in the order in which they are drawn: a unit of each lane in turn."""
    lanes = [
        [unit for unit in order.lane(epoch, lane) if isinstance(unit, Unit)] for lane in range(64)
    ]
    return [unit for turn in zip(*lanes, strict=True) for unit in turn] + order.tail(epoch)
