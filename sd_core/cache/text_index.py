"""Where each caption's entry lies: a table sorted by hash, in files by the hash's first bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_core.cache.samples import CacheShardError
from sd_core.cache.text_packs import HASH_BYTES

ENTRIES_PER_FILE: Final = 1 << 20
_NIBBLES: Final = (0, 1, 2, 3)
_SCHEMA: Final = pa.schema(
    [
        pa.field("sha256", pa.binary(HASH_BYTES), nullable=False),
        pa.field("pack", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
    ]
)
_Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, eq=False)
class TextIndex:
    """Entries in order of their hashes, each hash once.

    Args:
        hashes: (N, 4) uint64, big-endian words of the hashes.
        packs: (N,) int32, numbers of packs in a list that stands beside.
        rows: (N,) int32, of the pack.
        lengths: (N,) int32, of the entry: tokens without padding.
    """

    hashes: _Words
    packs: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.packs)

    @classmethod
    def empty(cls) -> Self:
        none = np.empty(0, np.int32)
        return cls(hashes=np.empty((0, 4), np.uint64), packs=none, rows=none, lengths=none)

    @classmethod
    def of_pack(cls, hashes: Sequence[bytes], lengths: Sequence[int], *, pack: int) -> Self:
        """A pack's own entries."""
        words = _words(b"".join(hashes))
        order = _order(words)
        return cls(
            hashes=words[order],
            packs=np.full(len(words), pack, np.int32),
            rows=order.astype(np.int32),
            lengths=np.asarray(lengths, np.int32)[order],
        )

    def find(self, hashes: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """The place of each hash, -1 where there is none."""
        wanted = _words(b"".join(hashes))
        places = np.searchsorted(self.hashes[:, 0], wanted[:, 0])
        found = np.full(len(wanted), -1, np.int64)
        waiting = np.arange(len(wanted))
        while len(waiting):  # more than once only where two hashes share their first word
            at = places[waiting]
            waiting, at = waiting[at < len(self)], at[at < len(self)]
            alike = self.hashes[at, 0] == wanted[waiting, 0]
            waiting, at = waiting[alike], at[alike]
            same = (self.hashes[at] == wanted[waiting]).all(axis=1)
            found[waiting[same]] = at[same]
            waiting = waiting[~same]
            places[waiting] += 1
        return found

    def with_entries(self, others: Sequence["TextIndex"]) -> "TextIndex":
        """All entries; of two for a hash the earlier stays."""
        parts = [self, *others]
        hashes = np.concatenate([part.hashes for part in parts])
        order = _order(hashes)  # stable: the earlier one first
        is_first = np.ones(len(order), bool)
        is_first[1:] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
        return _joined(parts, order[is_first])

    def without(self, hashes: Sequence[bytes]) -> "TextIndex":
        """The entries of all other captions."""
        stays = np.ones(len(self), bool)
        found = self.find(hashes)
        stays[found[found >= 0]] = False
        return _joined([self], np.flatnonzero(stays))

    def files(self) -> dict[str, bytes]:
        """Parquet by prefix (no, one, two or three hex digits); each holds about a million."""
        nibbles = next((n for n in _NIBBLES if len(self) <= ENTRIES_PER_FILE << (4 * n)), 3)
        firsts = self.hashes[:, 0] >> np.uint64(64 - 4 * nibbles) if nibbles else None
        if firsts is None:
            return {"": _to_parquet(self)}
        edges = np.searchsorted(firsts, np.arange(16**nibbles + 1))
        return {
            f"{prefix:0{nibbles}x}": _to_parquet(
                _joined([self], np.arange(edges[prefix], edges[prefix + 1]))
            )
            for prefix in range(16**nibbles)
        }


def read_index_file(content: bytes, *, name: str) -> TextIndex:
    """Parse one file of an index.

    Raises:
        CacheShardError: it is damaged, or its hashes are not in order.
    """
    try:
        file = pq.ParquetFile(
            pa.BufferReader(content), page_checksum_verification=True, pre_buffer=False
        )
        if not file.schema_arrow.equals(_SCHEMA, check_metadata=False):
            raise CacheShardError(f"{name}: its columns are {file.schema_arrow.names}")
        table = file.read(use_threads=False).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise CacheShardError(f"{name}: not a text index: {error}") from error
    hashes = table["sha256"].combine_chunks()
    start = hashes.offset * HASH_BYTES
    raw = hashes.buffers()[1].to_pybytes()[start : start + len(hashes) * HASH_BYTES]
    words = _words(raw)
    if len(words) > 1 and not (_order(words) == np.arange(len(words))).all():
        raise CacheShardError(f"{name}: its hashes are not in order")
    columns = {k: table[k].to_numpy().astype(np.int32) for k in ("pack", "row", "length")}
    return TextIndex(
        hashes=words, packs=columns["pack"], rows=columns["row"], lengths=columns["length"]
    )


def join_index_files(parts: Sequence[TextIndex]) -> TextIndex:
    """The whole index of its files, given in the order of their prefixes."""
    return _joined(parts, np.arange(sum(map(len, parts)))) if parts else TextIndex.empty()


def _words(content: bytes) -> _Words:
    return np.frombuffer(content, ">u8").reshape(-1, 4).astype(np.uint64)


def _order(words: _Words) -> npt.NDArray[np.int64]:
    return np.lexsort(words.T[::-1])


def _joined(parts: Sequence[TextIndex], picks: npt.NDArray[np.int64]) -> TextIndex:
    return TextIndex(
        hashes=np.concatenate([part.hashes for part in parts])[picks],
        packs=np.concatenate([part.packs for part in parts])[picks],
        rows=np.concatenate([part.rows for part in parts])[picks],
        lengths=np.concatenate([part.lengths for part in parts])[picks],
    )


def _to_parquet(index: TextIndex) -> bytes:
    raw = index.hashes.astype(">u8").tobytes()
    hashes = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(HASH_BYTES), len(index), [None, pa.py_buffer(raw)]
    )
    columns = [hashes, *(pa.array(values, pa.int32()) for values in _numbers(index))]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        _SCHEMA,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(pa.table(columns, schema=_SCHEMA))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _numbers(index: TextIndex) -> tuple[npt.NDArray[np.int32], ...]:
    return index.packs, index.rows, index.lengths
