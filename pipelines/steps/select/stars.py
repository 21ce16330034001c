"""From pairs of near rows to what is dropped: each dropped row is near one that stays."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.steps.select.verdicts import Places


@dataclass(frozen=True, kw_only=True)
class Stars:
    """Rows to drop, and for each the best of the staying rows that it is near to."""

    dropped: Places
    stands_for: Places


def settle_stars(left: Places, right: Places, *, order: npt.NDArray[np.uint64] | None) -> Stars:
    """Choose from the best row down: one stays unless a better one that stays is near it.

    So a chain of near rows does not swallow its far end, and no two rows that stay are near.

    Args:
        left: One row of each pair; a pair may come more than once.
        right: The other.
        order: By place, of which the least is the best; then the lesser place. None: by place.
    """
    places, numbered = np.unique(np.concatenate([left, right]), return_inverse=True)
    ranked = places if order is None else places[np.argsort(order[places], kind="stable")]
    rank_of = np.empty(len(places), np.int64)
    rank_of[np.searchsorted(places, ranked)] = np.arange(len(places))
    pairs = rank_of[numbered].reshape(2, -1)
    better, worse = pairs.min(axis=0), pairs.max(axis=0)
    stays = _stays(len(places), better[better != worse], worse[better != worse])
    representative = np.full(len(places), len(places), np.int64)
    near = stays[better] & (better != worse)
    np.minimum.at(representative, worse[near], better[near])
    dropped = np.flatnonzero(~stays)
    return Stars(dropped=ranked[dropped], stands_for=ranked[representative[dropped]])


def _stays(
    count: int, better: npt.NDArray[np.int64], worse: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """In rounds: what has no better neighbour left stays, what is near it goes."""
    stays = np.ones(count, np.bool_)
    while len(better):
        has_better = np.zeros(count, np.bool_)
        has_better[worse] = True
        stays[worse[~has_better[better]]] = False
        open_pairs = stays[better] & stays[worse]
        better, worse = better[open_pairs], worse[open_pairs]
    return stays
