"""One unharmed local run, shared by the contract tests."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.run.store import RunStore
from tests.contracts import cases, training_cases


@pytest.fixture(scope="session")
def unharmed_run(served_list: cases.ServedList, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference: one local run, from start to end, of the contract tests' list."""
    output = tmp_path_factory.mktemp("unharmed")
    cases.run(cases.configuration(served_list.path, output))
    return output


@pytest.fixture(scope="session")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 24 rows, for trainings."""
    return training_cases.make_cache(tmp_path_factory.mktemp("cached"))


@pytest.fixture(scope="session")
def unharmed_training(latents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of 20 steps on it, with checkpoints of the steps 16 and 20."""
    folder = tmp_path_factory.mktemp("unharmed_training")
    assert training_cases.run(folder, latents) == 0
    return folder / "out"


@pytest.fixture
def kill_at_write(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], Counter[str]]:
    """Die before the n-th write to the storage from now on; None: never again, only count.

    What the threads of the lease and of the sight write, by their clocks, does not count.
    """
    counted: Counter[str] = Counter()
    limit: list[int | None] = [None]

    def guard(name: str) -> None:
        original = getattr(RunStore, name)

        def guarded(self: RunStore, *arguments: Any, **options: Any) -> Any:
            if threading.current_thread().name in ("lease", "sight"):
                return original(self, *arguments, **options)
            counted["writes"] += 1
            if limit[0] is not None and counted["writes"] > limit[0]:
                raise cases.Killed
            return original(self, *arguments, **options)

        monkeypatch.setattr(RunStore, name, guarded)

    for name in ("put_file", "replace", "create_exclusive", "delete", "show"):
        guard(name)

    def arm(number: int | None) -> Counter[str]:
        counted.clear()
        limit[0] = number
        return counted

    return arm
