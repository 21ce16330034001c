"""Ours beside our own minimal loops of peers' public patterns, part by part, in one run."""

from collections.abc import Callable, Sequence

from jobs.bench.peer_part import PeerResult, PeersBench
from jobs.bench.peers_models import measure_encoding, measure_scoring
from jobs.bench.peers_near import measure_near_hashes
from jobs.bench.peers_recut import measure_recut
from jobs.bench.peers_train import measure_reading, measure_training
from jobs.bench.tables import megabytes, text_table
from sd_core.say import Say

PARTS: dict[str, Callable[[PeersBench], list[PeerResult]]] = {
    "training": measure_training,
    "scoring": measure_scoring,
    "encoding": measure_encoding,
    "reading": measure_reading,
    "re-cut": measure_recut,
    "near-hashes": measure_near_hashes,
}
"""By their names of `PEER_PARTS`; each imports its peer when it is called."""


def measure_peers(parts: Sequence[str], bench: PeersBench, *, say: Say) -> list[PeerResult]:
    """Measure the named parts, in the table's order; none named are all."""
    found = []
    for name, measure_part in PARTS.items():
        if name not in parts and parts:
            continue
        for result in measure_part(bench):
            say(f"{result.part}: {result.ratio:.2f} times {result.peer}")
            found.append(result)
    return found


def peers_table(results: Sequence[PeerResult]) -> str:
    """Both sides, the ratio, and what is promised."""
    head = ["part", "beside", "ours", "theirs", "unit", "times theirs", "our MB", "their MB"]
    head += ["promised", "kept"]
    rows = [
        [
            result.part,
            result.peer,
            _rate(result.amount / result.our_seconds),
            _rate(result.amount / result.peer_seconds),
            f"{result.unit}/s",
            f"{result.ratio:.2f}",
            megabytes(result.our_bytes),
            megabytes(result.peer_bytes),
            _promise(result) or "-",
            "yes" if result.is_good_enough else "NO",
        ]
        for result in results
    ]
    return text_table(head, rows)


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.2f}"


def _promise(result: PeerResult) -> str:
    told = []
    if result.min_ratio is not None:
        told.append(f"{result.min_ratio:.2f} times")
    if result.min_per_second is not None:
        told.append(f"{result.min_per_second:,.0f}/s")
    if result.max_memory_ratio is not None:
        told.append(f"{result.max_memory_ratio:.2f} of the memory")
    return ", ".join(told)
