"""The order of samples: permutations, ranges, exact shares."""

from collections import Counter

import numpy as np
import pytest

from sd_core.cache.order import CacheOrder, MixtureOrder, block_counts, count_streams

PINNED_ROWS = [(0, 0, 3), (0, 1, 2), (0, 1, 1), (0, 1, 0), (1, 0, 3), (1, 1, 1)]
PINNED_PICKS = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]


def stream_rows(order: CacheOrder, stream: int, *, draws: range) -> list[tuple[int, int, int]]:
    """(epoch, shard, row) of a stream's draws."""
    found = []
    for draw in draws:
        piece = order.piece(stream, draw)
        row = int(piece.rows[draw - piece.draws.start])
        found.append((piece.epoch, piece.shard_index, row))
    return found


def make_order(num_rows: list[int], *, num_streams: int = 8, seed: int = 0) -> CacheOrder:
    return CacheOrder(num_rows, num_streams=num_streams, seed=seed, cache_index=0)


@pytest.mark.parametrize(
    "num_rows", [[103], [40, 25, 38], [1] * 103, [100, 1, 1, 1], [8], [15], [3, 9, 200]]
)
def test_an_epoch_has_every_row_once_but_for_the_rest(num_rows: list[int]) -> None:
    order = make_order(num_rows)
    total = sum(num_rows)
    every = {(shard, row) for shard, count in enumerate(num_rows) for row in range(count)}
    share = total // 8
    left_out = []
    for epoch in range(6):
        draws = range(epoch * share, (epoch + 1) * share)
        drawn = [place for s in range(8) for place in stream_rows(order, s, draws=draws)]
        assert {e for e, _, _ in drawn} == {epoch}
        places = {(shard, row) for _, shard, row in drawn}
        assert len(drawn) == len(places) == total - total % 8
        assert places <= every
        left_out.append(frozenset(every - places))
    if total % 8:
        assert len(set(left_out)) > 1  # other rows the next time


def test_a_piece_is_the_same_from_wherever_it_is_entered() -> None:
    order = make_order([40, 25, 38])
    for draw in range(60):
        piece = order.piece(3, draw)
        assert draw in piece.draws
        assert len(piece.draws) == len(piece.rows)
        again = make_order([40, 25, 38]).piece(3, piece.draws.start)
        np.testing.assert_array_equal(again.rows, piece.rows)
        assert (again.epoch, again.shard_index) == (piece.epoch, piece.shard_index)


def test_order_depends_on_seed_epoch_and_cache() -> None:
    draws = range(12)
    orders = [
        make_order([40, 25, 38]),
        make_order([40, 25, 38], seed=1),
        CacheOrder([40, 25, 38], num_streams=8, seed=0, cache_index=1),
    ]
    found = [stream_rows(order, 0, draws=draws) for order in orders]
    second = [(0, *place[1:]) for place in stream_rows(orders[0], 0, draws=range(12, 24))]
    assert len({tuple(rows) for rows in [*found, second]}) == 4


def test_the_order_of_today_is_the_order_of_every_version() -> None:
    # Pinned: a run that is resumed with a newer NumPy must go on in the same order.
    order = make_order([5, 4], num_streams=2, seed=7)
    assert stream_rows(order, 1, draws=range(6)) == PINNED_ROWS
    picks = MixtureOrder([700, 300], seed=7).block(1, 2)
    assert [pick.cache_index for pick in picks[:20]] == PINNED_PICKS


def test_a_stream_touches_few_shards() -> None:
    order = make_order([100] * 64, num_streams=8)
    for stream in range(8):
        shards = {shard for _, shard, _ in stream_rows(order, stream, draws=range(800))}
        assert len(shards) <= 9  # 800 rows of 6,400: eight shards' worth


def test_shares_are_exact_in_every_block_and_no_draw_is_skipped() -> None:
    counts = block_counts([5, 3, 1])
    assert counts == (556, 333, 111)
    mixture = MixtureOrder(counts, seed=0)
    seen: list[list[int]] = [[], [], []]
    for block in range(3):
        picks = mixture.block(4, block)
        assert Counter(pick.cache_index for pick in picks) == dict(enumerate(counts))
        for pick in picks:
            seen[pick.cache_index].append(pick.draw)
    for count, draws in zip(counts, seen, strict=True):
        assert draws == list(range(3 * count))
    orders = {tuple(p.cache_index for p in mixture.block(s, b)) for s in (0, 4) for b in (0, 1)}
    assert len(orders) == 4


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([1], (1000,)),
        ([0.2, 0.1], (667, 333)),
        ([1, 1, 1], (334, 333, 333)),
        ([999, 1], (999, 1)),
        ([1e-9, 1e-9], (500, 500)),
    ],
)
def test_counts_are_by_largest_remainder(weights: list[float], counts: tuple[int, ...]) -> None:
    assert block_counts(weights) == counts


@pytest.mark.parametrize(
    "weights", [[1, 0], [1, -1], [float("nan")], [float("inf"), 1], [1e6, 1.0]]
)
def test_a_weight_that_would_never_be_drawn_is_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        block_counts(weights)


@pytest.mark.parametrize(
    ("num_rows", "asked", "count"),
    [([1000], 64, 64), ([1000, 63], 64, 32), ([64], 64, 64), ([1], 64, 1), ([5], 64, 4)],
)
def test_streams_are_as_many_as_the_smallest_cache_fills(
    num_rows: list[int], asked: int, count: int
) -> None:
    assert count_streams(num_rows, num_streams=asked) == count
