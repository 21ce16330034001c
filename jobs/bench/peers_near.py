"""Every pair of near perceptual hashes: ours beside faiss's exact multi-index hashing."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jobs.bench.peer_part import PeerResult, PeersBench, in_turns
from pipelines.steps.select.near_hashes import HASHED, near_pairs

_DISTANCE = 4
_ROWS = 200_000
_NEAR = 0.05


def measure_near_hashes(bench: PeersBench) -> list[PeerResult]:
    """200,000 hashes at distance 4, of which 5% are near copies; both sides find the same pairs."""
    hashes = _hashes(bench.sized(_ROWS, least=1000))
    found: dict[str, set[tuple[int, int]]] = {}

    def ours() -> None:
        found["ours"] = _our_pairs(hashes)

    def peer() -> None:
        found["faiss"] = _faiss_pairs(hashes)

    seconds = in_turns({"ours": ours, "faiss": peer}, repeats=bench.repeats)
    if found["ours"] != found["faiss"]:
        raise RuntimeError("near-hashes: the two sides found other pairs")
    return [
        PeerResult(
            part="near-hashes",
            peer="faiss IndexBinaryMultiHash",
            unit="hashes",
            amount=len(hashes),
            our_seconds=seconds["ours"],
            peer_seconds=seconds["faiss"],
            min_ratio=1.0,
        )
    ]


def _hashes(rows: int) -> npt.NDArray[np.uint64]:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, rows, dtype=np.uint64)
    copies = rng.choice(np.arange(1, rows), int(rows * _NEAR), replace=False)
    flips = np.uint64(1) << rng.integers(0, 64, (2, len(copies)), dtype=np.uint64)
    hashes[copies] = hashes[rng.integers(0, copies)] ^ flips[0] ^ flips[1]
    return hashes


def _our_pairs(hashes: npt.NDArray[np.uint64]) -> set[tuple[int, int]]:
    records = np.empty(len(hashes), HASHED)
    records["hash"], records["place"] = hashes, np.arange(len(hashes))

    def read() -> Iterator[npt.NDArray[np.void]]:
        yield records

    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        pairs = list(
            near_pairs(read, num_records=len(records), distance=_DISTANCE, folder=Path(folder))
        )
    left = np.concatenate([np.minimum(part.left, part.right) for part in pairs])
    right = np.concatenate([np.maximum(part.left, part.right) for part in pairs])
    return set(zip(left.tolist(), right.tolist(), strict=True))


def _faiss_pairs(hashes: npt.NDArray[np.uint64]) -> set[tuple[int, int]]:
    import faiss

    # Of four bands of 16 bits one differs in one bit at most, where four bits differ in all.
    index = faiss.IndexBinaryMultiHash(64, 4, 16)
    index.nflip = 1
    vectors = hashes.view(np.uint8).reshape(len(hashes), 8)
    index.add(vectors)
    limits, _, ids = index.range_search(vectors, _DISTANCE + 1)  # those below the radius
    ends = limits.astype(np.int64)
    asked = np.repeat(np.arange(len(hashes)), ends[1:] - ends[:-1])
    once = asked < ids
    return set(zip(asked[once].tolist(), ids[once].tolist(), strict=True))
