"""Where a run's files lie: its records and what readers open at its top, all else in `_work/`."""

from collections.abc import Collection
from typing import Final

WORK_FOLDER: Final = "_work"
"""Runs of earlier versions have none: what it holds lies at their top."""
_AT_THE_TOP: Final = frozenset(
    (
        WORK_FOLDER,
        "",
        "run.json",
        "revision.json",
        "README.md",
        "lease.json",
        "status.json",
        "report",
        "lists",
        "used_by",
    )
)
_OF_A_FLAT_ONE: Final = ("run.json", "plan", "manifests", "checkpoints", "model", "result.json")


def is_at_top(path: str) -> bool:
    """Whether a path of a run is none of those that lie in `_work/`."""
    first = path.partition("/")[0]
    return first in _AT_THE_TOP or first.startswith((".", "probe-"))


def is_flat(names: Collection[str]) -> bool:
    """Whether the files and folders of a run, or a training, are those of one without `_work/`."""
    return WORK_FOLDER not in names and not set(names).isdisjoint(_OF_A_FLAT_ONE)
