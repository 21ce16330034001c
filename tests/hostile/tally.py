"""What a test of many cases held and failed: all of them run, then the test fails for any."""

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

ItemT = TypeVar("ItemT")

SEED = int(os.environ.get("HOSTILE_SEED", "0"))
SHARE = float(os.environ.get("HOSTILE_SHARE", "0.1"))
"""Which part of the cases runs; `make hostile` runs all, `make test` a tenth."""
_SHOWN = 12


def only(*parameters: object) -> list[Any]:
    """Parameters of a test that only `make hostile` runs."""
    return [pytest.param(parameter, marks=pytest.mark.hostile) for parameter in parameters]


class Tally:
    """The cases of one test.

    Args:
        record: pytest's `record_property`.
        kind: The row of the table that they count in.
    """

    def __init__(self, record: Callable[[str, object], None], kind: str, name: str) -> None:
        self._record = record
        self.kind = kind
        self.random = random.Random(f"{SEED}/{kind}/{name}")
        self.num_cases = 0
        self.failed: list[str] = []

    def some(self, cases: Sequence[ItemT], *, few: int | None = None) -> list[ItemT]:
        """All of the cases, or this run's share of them: drawn by the seed, at least one, in order.

        Args:
            few: How many, where not all run and a share of them would take too long.
        """
        wanted = max(1, round(len(cases) * SHARE))
        if few is not None and SHARE <= 0.1:
            wanted = min(wanted, few)
        taken = sorted(self.random.sample(range(len(cases)), min(wanted, len(cases))))
        return [cases[at] for at in taken]

    @contextmanager
    def case(self, name: object) -> Iterator[None]:
        """One case: what fails within it is kept, and the next case runs."""
        self.num_cases += 1
        try:
            yield
        except Exception as error:
            self.failed.append(f"{name}: {type(error).__name__}: {error}"[:2000])

    def count(self, cases: int, failed: Sequence[str] = ()) -> None:
        """Cases that ran together, and those that failed."""
        self.num_cases += cases
        self.failed += failed

    def close(self) -> None:
        """Tell the table, and raise AssertionError where a case failed."""
        counts = {"kind": self.kind, "cases": self.num_cases, "failed": len(self.failed)}
        self._record("hostile", json.dumps(counts))
        told = "\n".join(self.failed[:_SHOWN])
        assert not self.failed, (
            f"{len(self.failed)} of {self.num_cases} cases of {self.kind!r}, "
            f"HOSTILE_SEED={SEED}:\n{told}"
        )


def table(counts: Sequence[dict[str, object]]) -> list[str]:
    """The lines of the table: fault kind, cases, held, failed."""
    kinds: dict[str, list[int]] = {}
    for each in counts:
        row = kinds.setdefault(str(each["kind"]), [0, 0])
        row[0] += int(str(each["cases"]))
        row[1] += int(str(each["failed"]))
    width = max((len(kind) for kind in kinds), default=5)
    lines = [f"{'kind of fault':<{width}}  {'cases':>6}  {'held':>6}  {'failed':>6}"]
    kinds |= {"all": [sum(row[0] for row in kinds.values()), sum(row[1] for row in kinds.values())]}
    for kind, (cases, failed) in kinds.items():
        lines.append(f"{kind:<{width}}  {cases:>6,}  {cases - failed:>6,}  {failed:>6,}")
    return [*lines, f"HOSTILE_SEED={SEED}"]
