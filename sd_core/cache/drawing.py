"""Who draws which samples: a rank's share of each batch, and the open shards they are read from."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from sd_core.cache.order import (
    BLOCK_PICKS,
    CacheOrder,
    MixtureOrder,
    Pick,
    Piece,
    block_counts,
    count_streams,
)

_THREADS = 4
_IDLE_SHARDS = 8

ShardPlace = tuple[int, int]
"""Which cache, and which of its shards."""


class Closable(Protocol):
    """An open shard."""

    def close(self) -> None:
        """Close its file."""


ReaderT = TypeVar("ReaderT", bound=Closable)
OpenShard = Callable[[ShardPlace], ReaderT]


class Draws:
    """A rank's samples of caches (or other sets of shards) mixed by weight.

    The same samples in the same order for any world size.

    Args:
        shard_rows: Of each cache, the rows of each shard.
        weights: Each cache's share of the samples, in any unit; exact in every 1,000 samples of
            a canonical stream.
        num_streams: C, canonical streams, lowered where a cache has fewer rows.
        seed: Decides the order, with nothing else.
        rank: This process, from 0.
        world_size: Processes; divides C.

    Raises:
        ValueError: an argument cannot be used; says which.
    """

    def __init__(
        self,
        shard_rows: Sequence[Sequence[int]],
        *,
        weights: Sequence[float],
        num_streams: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        if not shard_rows or len(shard_rows) != len(weights):
            raise ValueError(
                f"{len(shard_rows)} caches and {len(weights)} weights; give one weight a cache"
            )
        if seed < 0 or num_streams < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"seed {seed}, num_streams {num_streams}, rank {rank} of {world_size}: the seed is "
                "at least 0, num_streams at least 1, the rank under world_size"
            )
        rows = [sum(one) for one in shard_rows]
        self.num_streams = count_streams(rows, num_streams=num_streams)
        if self.num_streams % world_size:
            raise ValueError(
                f"{world_size} processes do not divide {self.num_streams} streams evenly; "
                f"num_streams is {num_streams} and the smallest cache has {min(rows)} rows"
            )
        self.shard_rows, self.counts, self.seed = shard_rows, block_counts(weights), seed
        self._rank, self._world_size = rank, world_size

    def rounds(self, *, batch_size: int, start_step: int) -> Iterator[list[range]]:
        """The numbers of this rank's samples of each step, at most one a stream in each range.

        Raises:
            ValueError: the batch does not divide among the ranks.
        """
        if batch_size < 1 or batch_size % self._world_size or start_step < 0:
            raise ValueError(
                f"batch_size {batch_size} from step {start_step}: it must be a multiple of the "
                f"{self._world_size} processes, the step at least 0"
            )
        return self._rounds(batch_size, start_step)

    def _rounds(self, batch_size: int, step: int) -> Iterator[list[range]]:
        size = self.num_streams // self._world_size
        while True:
            first = step * batch_size
            begin = first + (self._rank - first) % self._world_size
            ours = range(begin, first + batch_size, self._world_size)
            yield [ours[start : start + size] for start in range(0, len(ours), size)]
            step += 1


@dataclass(frozen=True, kw_only=True)
class SamplePlace(Generic[ReaderT]):
    """Where a sample lies: a row of an open shard of a cache, in an epoch of it."""

    reader: ReaderT
    row: int
    cache_index: int
    shard_index: int
    epoch: int


class Drawing(Generic[ReaderT]):
    """One pass through the order: where each stream is, and the shards it has open.

    Args:
        draws: Whose order it is.
        open_shard: Opens a shard; called in threads.
        looks_ahead: Of each cache, whether its shards are opened before they are needed.
    """

    def __init__(
        self, draws: Draws, open_shard: OpenShard[ReaderT], *, looks_ahead: Sequence[bool]
    ) -> None:
        self._num_streams, self._looks_ahead = draws.num_streams, looks_ahead
        self._mixture = MixtureOrder(draws.counts, seed=draws.seed)
        self._orders = [
            CacheOrder(rows, num_streams=draws.num_streams, seed=draws.seed, cache_index=k)
            for k, rows in enumerate(draws.shard_rows)
        ]
        self._shards = OpenShards(open_shard)
        self._blocks: dict[int, tuple[int, list[Pick]]] = {}
        self._pieces: dict[tuple[int, int], Piece] = {}
        self._next_pieces: dict[tuple[int, int], Piece] = {}

    def places(self, indices: Sequence[int]) -> list[SamplePlace[ReaderT]]:
        """Of samples by number, at most one a stream; their shards open side by side."""
        found = []
        for index in indices:
            position, stream = divmod(index, self._num_streams)
            pick = self._pick(stream, position)
            found.append((pick, self._piece(stream, pick)))
        return [
            SamplePlace(
                reader=self._shards.reader((pick.cache_index, piece.shard_index)),
                row=int(piece.rows[pick.draw - piece.draws.start]),
                cache_index=pick.cache_index,
                shard_index=piece.shard_index,
                epoch=piece.epoch,
            )
            for pick, piece in found
        ]

    def close(self) -> None:
        """Close every shard."""
        self._shards.close()

    def _pick(self, stream: int, position: int) -> Pick:
        number, place = divmod(position, BLOCK_PICKS)
        held = self._blocks.get(stream)
        if held is None or held[0] != number:
            held = self._blocks[stream] = (number, self._mixture.block(stream, number))
        return held[1][place]

    def _piece(self, stream: int, pick: Pick) -> Piece:
        """The stream's present piece of the pick's cache; its shard is open, or opening."""
        place = stream, pick.cache_index
        piece = self._pieces.get(place)
        if piece is None or pick.draw not in piece.draws:
            old, piece = piece, self._next_pieces.pop(place, None)
            if piece is None:
                piece = self._enter(place, pick.draw)
            self._pieces[place] = piece
            if old is not None:
                self._shards.release((pick.cache_index, old.shard_index))
        is_half_done = pick.draw - piece.draws.start >= len(piece.draws) // 2
        if self._looks_ahead[pick.cache_index] and is_half_done and place not in self._next_pieces:
            self._next_pieces[place] = self._enter(place, piece.draws.stop)
        return piece

    def _enter(self, place: tuple[int, int], draw: int) -> Piece:
        stream, cache_index = place
        piece = self._orders[cache_index].piece(stream, draw)
        self._shards.acquire((cache_index, piece.shard_index))
        return piece


class OpenShards(Generic[ReaderT]):
    """Counts each shard's users; the few that lost their last one latest stay open."""

    def __init__(self, open_shard: OpenShard[ReaderT]) -> None:
        self._open = open_shard
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="open-shard")
        self._readers: dict[ShardPlace, Future[ReaderT]] = {}
        self._users: dict[ShardPlace, int] = {}
        self._idle: OrderedDict[ShardPlace, None] = OrderedDict()

    def acquire(self, place: ShardPlace) -> None:
        """Begin to open the shard, if it is not open; every call needs its `release`."""
        if place not in self._readers:
            self._readers[place] = self._pool.submit(self._open, place)
        self._users[place] = self._users.get(place, 0) + 1
        self._idle.pop(place, None)

    def reader(self, place: ShardPlace) -> ReaderT:
        """The shard, once it is open; raises what opening it did."""
        return self._readers[place].result()

    def release(self, place: ShardPlace) -> None:
        """One user fewer."""
        self._users[place] -= 1
        if self._users[place] == 0:
            del self._users[place]
            self._idle[place] = None
        while len(self._idle) > _IDLE_SHARDS:
            oldest, _ = self._idle.popitem(last=False)
            _close(self._readers.pop(oldest))

    def close(self) -> None:
        """Close every shard, with or without users."""
        self._pool.shutdown(cancel_futures=True)
        for opening in self._readers.values():
            _close(opening)
        self._readers.clear()


def _close(opening: "Future[ReaderT]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
