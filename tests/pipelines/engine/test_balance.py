"""Workers that wait much for others are told of once, with what would change it."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipelines.engine import balance
from pipelines.engine.balance import Balance
from pipelines.engine.pool import Pool, PoolSight


def told(
    monkeypatch: pytest.MonkeyPatch, *, download: tuple[float, float], score: tuple[float, float]
) -> list[str]:
    """What is said in three minutes of so many seconds busy and idle in each of them."""
    now = [0.0]
    monkeypatch.setattr(balance.time, "monotonic", lambda: now[0])
    said: list[str] = []

    def pool(name: str, minute: tuple[float, float]) -> Any:
        sight = PoolSight()

        def look(passed_s: float) -> None:
            sight.busy_s += minute[0] * passed_s / 60
            sight.idle_s += minute[1] * passed_s / 60

        return SimpleNamespace(step=SimpleNamespace(name=name), sight=sight, look=look)

    pools = {0: pool("download", download), 1: pool("score", score)}
    states = [SimpleNamespace(ready=[1]), SimpleNamespace(ready=[])]
    watched = Balance(
        cast(Any, SimpleNamespace(states=states)), cast(dict[int, Pool], pools), say=said.append
    )
    for _ in range(3):
        now[0] += 60
        watched.tick()
    return said


def test_model_workers_that_starve(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = told(monkeypatch, download=(118, 2), score=(12, 48))
    assert line.startswith("score: its workers waited 80% of the last minute for download; more ")
    assert "engine.download_workers" in line


def test_downloads_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = told(monkeypatch, download=(30, 90), score=(60, 0))
    assert line.startswith("download: its workers waited 75% of the last minute for score; more")
    assert "engine.gpus" in line


def test_a_balanced_job_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, download=(100, 20), score=(50, 10)) == []
