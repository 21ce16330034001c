"""The reference runner."""

import errno
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines.engine import patience
from pipelines.engine.chain import Chain
from pipelines.engine.config import EngineConfig
from pipelines.engine.local import run_local
from pipelines.engine.session import open_session
from pipelines.run.manifest import Manifest, committed_shards, read_manifest
from pipelines.run.store import RunStore
from sd_core.errors import EnvironmentFault
from tests.pipelines.engine.toy_step import ToyStep


@dataclass
class Recorder(ToyStep):
    """A toy step that says what is done with it."""

    events: list[str] = field(default_factory=list)

    def open(self) -> None:
        super().open()
        self.events.append(f"open {self.name}")

    def run(self, shard_id: int) -> Manifest:
        self.events.append(f"{self.name} {shard_id}")
        return super().run(shard_id)

    def close(self) -> None:
        self.events.append(f"close {self.name}")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path))


def make_chain(store: RunStore, steps: list[Recorder], *, num_shards: int = 3) -> Chain:
    return Chain(
        store,
        steps,
        num_shards,
        config=EngineConfig(shard_tries=2),
        on_commit=lambda manifest: None,
        on_trouble=lambda line: None,
    )


def recorders(store: RunStore, **options: object) -> tuple[list[Recorder], list[str]]:
    events: list[str] = []
    names = ("a", "b")
    return [Recorder(store, name, events=events, **options) for name in names], events


def test_shards_flow_through_before_the_next_is_begun(store: RunStore) -> None:
    steps, events = recorders(store)
    run_local(make_chain(store, steps), check=lambda: None, say=print)
    assert events == [
        *("open a", "a 0", "open b", "b 0", "a 1", "b 1", "a 2", "b 2"),
        *("close a", "close b"),
    ]
    assert committed_shards(store, "b", "f0") == {0, 1, 2}


def test_step_with_nothing_to_do_is_not_opened(store: RunStore) -> None:
    steps, events = recorders(store)
    run_local(make_chain(store, steps[:1]), check=lambda: None, say=print)
    events.clear()
    run_local(make_chain(store, steps), check=lambda: None, say=print)
    assert events == ["open b", "b 0", "b 1", "b 2", "close b"]


def test_poisoned_shard_is_quarantined_and_the_others_go_on(store: RunStore) -> None:
    steps, events = recorders(store)
    steps[0].fail = (1,)
    chain = make_chain(store, steps)
    run_local(chain, check=lambda: None, say=print)
    assert chain.is_done
    assert chain.quarantined == 1
    assert events.count("a 1") == 2
    manifest = read_manifest(store, "a", "f0", 1)
    assert manifest is not None
    assert manifest.quarantined is not None
    assert "poison in shard 1" in manifest.quarantined


def test_step_that_cannot_be_opened_ends_the_job(store: RunStore) -> None:
    steps, events = recorders(store, fail_to_open="no weights")
    with pytest.raises(ValueError, match="no weights"):
        run_local(make_chain(store, steps), check=lambda: None, say=print)
    assert events == []


def test_check_may_stop_the_run_and_opened_steps_are_closed(store: RunStore) -> None:
    steps, events = recorders(store)

    def check() -> None:
        if "b 0" in events:
            raise RuntimeError("the lease is lost")

    with pytest.raises(RuntimeError, match="the lease is lost"):
        run_local(make_chain(store, steps), check=check, say=print)
    assert events[-3:] == ["b 0", "close a", "close b"]


@dataclass
class Harmed(Recorder):
    """A toy step whose storage fails the first times that it is opened and run."""

    error: Exception = field(default_factory=OSError)
    times: int = 2

    def open(self) -> None:
        super().open()
        self._fail_on("open")

    def run(self, shard_id: int) -> Manifest:
        self._fail_on("run")
        return super().run(shard_id)

    def _fail_on(self, what: str) -> None:
        self.events.append(what)
        if self.events.count(what) <= self.times:
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EROFS, "ro"),
        PermissionError(errno.EACCES, "no"),
    ],
    ids=repr,
)
def test_storage_that_fails_for_a_while_costs_no_try_and_for_longer_ends_the_job(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(patience, "_FIRST_WAIT_S", 0.01)
    said: list[str] = []

    def run(patience_s: float) -> None:
        config = EngineConfig(shard_tries=1, patience_s=patience_s)
        chain = Chain(
            store,
            [Harmed(store, error=error)],
            3,
            config=config,
            on_commit=lambda manifest: None,
            on_trouble=said.append,
        )
        run_local(chain, check=lambda: None, say=print)

    with pytest.raises(EnvironmentFault, match=r"^toy shard 0: .* the disk or store"):
        run(0)
    assert committed_shards(store, "toy", "f0") == set()
    assert said == []
    run(5)
    assert committed_shards(store, "toy", "f0") == {0, 1, 2}
    assert len(said) == 4
    assert all(": tried again in 0 s: " in line for line in said)
    assert not [shard for shard in range(3) if read_manifest(store, "toy", "f0", shard).quarantined]


def test_more_gpus_than_one_without_ray_are_told_of(store: RunStore) -> None:
    said: list[str] = []
    for gpus in (0, 1, "auto", 2):
        config = EngineConfig.model_validate({"runner": "local", "gpus": gpus})
        with open_session(store, config, say=said.append):
            pass
    assert said == ["engine.gpus: without Ray one GPU is used; set engine.runner to ray"]
