"""Pairs of 64-bit hashes within a Hamming distance: every one of them, and memory bounded.

Two hashes that differ in at most d bits differ little in one of their four 16-bit bands: if bands
are allowed t1 to t4 bits with (t1 + 1) + ... + (t4 + 1) = d + 1, one of them is within its own. So
hashes are sorted by a band, and each is compared with those whose band is the same up to so many
flipped bits; four times, with another band.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.steps.select.spill import Spill, SpilledRecords
from pipelines.steps.select.verdicts import Places

HASHED = np.dtype([("hash", "<u8"), ("place", "<i8")])
_BANDS = 4
_BAND_BITS = 16
_ROWS_AT_ONCE = 8_000_000
_PAIRS_AT_ONCE = 1 << 17


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Places of near rows, in two columns."""

    left: Places
    right: Places


def near_pairs(
    records: Callable[[], Iterator[SpilledRecords]],
    *,
    num_records: int,
    distance: int,
    folder: Path,
    rows_at_once: int = _ROWS_AT_ONCE,
) -> Iterator[Pairs]:
    """Every pair of `HASHED` records within a distance, once.

    Args:
        records: Gives them in pieces; is called once for each band.
        num_records: How many there are, at most.
        distance: Of at most 11 bits.
        folder: A local folder; the records are written there for each band.
        rows_at_once: How many records are in memory, about; twice as many for neighbours.
    """
    top_bits = max(0, (-(-num_records // rows_at_once) - 1).bit_length())
    for band in range(min(_BANDS, distance + 1)):
        spill = Spill(folder, name=f"band-{band}", dtype=HASHED, num_partitions=1 << top_bits)
        for chunk in records():
            spill.add(chunk, _band(chunk["hash"], band) >> (_BAND_BITS - top_bits))
        yield from _band_pairs(spill, band=band, top_bits=top_bits, distance=distance)
        spill.remove()


def _band_pairs(spill: Spill, *, band: int, top_bits: int, distance: int) -> Iterator[Pairs]:
    flips = _flips(band, distance)
    low_bits = _BAND_BITS - top_bits
    for number in range(spill.num_partitions):
        here = _sorted(spill.load(number), band)
        for top in _masks(top_bits, flips):
            if number ^ top < number:
                continue  # met from the other side
            there = here if not top else _sorted(spill.load(number ^ top), band)
            for low in _masks(low_bits, flips - top.bit_count()):
                mask = top << low_bits | low
                yield from _compare(here, there, mask=mask, band=band, distance=distance)


def _flips(band: int, distance: int) -> int:
    """How many bits a band may differ in; the first bands take what does not divide evenly."""
    return (distance + _BANDS - band) // _BANDS - 1


def _masks(bits: int, flips: int) -> Iterator[int]:
    for count in range(flips + 1):
        for chosen in combinations(range(bits), count):
            yield sum(1 << bit for bit in chosen)


def _band(hashes: npt.NDArray[np.uint64], band: int) -> npt.NDArray[np.int64]:
    return ((hashes >> np.uint64(band * _BAND_BITS)) & np.uint64(0xFFFF)).astype(np.int64)


def _sorted(records: SpilledRecords, band: int) -> SpilledRecords:
    return records[np.argsort(_band(records["hash"], band), kind="stable")]


def _compare(
    here: SpilledRecords, there: SpilledRecords, *, mask: int, band: int, distance: int
) -> Iterator[Pairs]:
    """Pairs whose bands differ in exactly the mask's bits."""
    band_here, band_there = _band(here["hash"], band), _band(there["hash"], band)
    asks = np.arange(len(here))
    if mask and here is there:  # each pair once: by the side whose highest flipped bit is 0
        asks = asks[band_here >> (mask.bit_length() - 1) & 1 == 0]
    begin = np.searchsorted(band_there, band_here[asks] ^ mask, "left")
    end = np.searchsorted(band_there, band_here[asks] ^ mask, "right")
    if not mask:
        begin = asks + 1
    counts = end - begin
    total = np.concatenate([[0], np.cumsum(counts)])
    hashes_here, hashes_there = here["hash"].copy(), there["hash"].copy()
    low = 0
    while low < len(asks):
        high = max(low + 1, int(np.searchsorted(total, total[low] + _PAIRS_AT_ONCE, "right")) - 1)
        some = counts[low:high]
        left = np.repeat(asks[low:high], some)
        right = np.arange(len(left)) + np.repeat(
            begin[low:high] - total[low:high] + total[low], some
        )
        differ = hashes_here[left] ^ hashes_there[right]
        near = np.flatnonzero(np.bitwise_count(differ) <= distance)
        for earlier in range(band):  # whose turn met this pair already
            flips = np.bitwise_count(_band(differ[near], earlier))
            near = near[flips > _flips(earlier, distance)]
        if len(near):
            yield Pairs(left=here["place"][left[near]], right=there["place"][right[near]])
        low = high
