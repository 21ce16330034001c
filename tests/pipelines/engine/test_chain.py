"""What a chain owes: the flow of shards, two budgets, quarantine."""

from pathlib import Path

import pytest

from pipelines.engine.chain import Chain, EngineError
from pipelines.engine.config import EngineConfig
from pipelines.run.manifest import Manifest, create_manifest, read_manifest
from pipelines.run.store import RunStore
from tests.pipelines.engine.toy_step import ROWS, ToyStep


class Log:
    """What a chain said."""

    def __init__(self) -> None:
        self.commits: list[tuple[str, int]] = []
        self.trouble: list[str] = []


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path))


@pytest.fixture
def log() -> Log:
    return Log()


def make_chain(
    store: RunStore, log: Log, *, names: tuple[str, ...] = ("a", "b"), num_shards: int = 3
) -> Chain:
    return Chain(
        store,
        [ToyStep(store, name) for name in names],
        num_shards,
        config=EngineConfig(shard_tries=3, infrastructure_tries=4),
        on_commit=lambda manifest: log.commits.append((manifest.step, manifest.shard_id)),
        on_trouble=log.trouble.append,
    )


def commit(
    store: RunStore, step: str, shard_id: int, *, quarantined: str | None = None
) -> Manifest:
    lost = quarantined is not None
    return create_manifest(
        store,
        Manifest(
            step=step,
            fingerprint="f0",
            shard_id=shard_id,
            files=(),
            rows_in=ROWS,
            kept=0 if lost else ROWS,
            dropped={"shard_quarantined": ROWS} if lost else {},
            quarantined=quarantined,
        ),
    )


def finish(chain: Chain, store: RunStore, index: int, shard_id: int) -> None:
    name = chain.states[index].step.name
    chain.finished(index, shard_id, commit(store, name, shard_id))


def test_shards_are_given_in_order_and_flow_to_the_next_step_when_finished(
    store: RunStore, log: Log
) -> None:
    chain = make_chain(store, log)
    assert chain.next_shard(1) is None
    assert [chain.next_shard(0) for _ in range(4)] == [0, 1, 2, None]
    finish(chain, store, 0, 1)
    assert chain.next_shard(1) == 1
    assert chain.next_shard(1) is None
    finish(chain, store, 1, 1)
    finish(chain, store, 0, 0)
    finish(chain, store, 0, 2)
    assert [chain.next_shard(1), chain.next_shard(1)] == [0, 2]
    assert not chain.is_done
    finish(chain, store, 1, 0)
    finish(chain, store, 1, 2)
    assert chain.is_done
    assert log.commits == [("a", 1), ("b", 1), ("a", 0), ("a", 2), ("b", 0), ("b", 2)]


def test_what_is_finished_and_not_yet_taken_is_what_holds_a_step_back(
    store: RunStore, log: Log
) -> None:
    chain = make_chain(store, log, num_shards=6)
    assert [chain.next_shard(0, max_ahead=2) for _ in range(3)] == [0, 1, 2]  # as many as there are
    finish(chain, store, 0, 0)
    assert chain.next_shard(0, max_ahead=2) == 3  # one waits for the next step
    finish(chain, store, 0, 1)
    assert chain.is_held(0, 2)
    assert chain.next_shard(0, max_ahead=2) is None  # two do
    assert chain.next_shard(1) == 0
    assert chain.next_shard(0, max_ahead=2) == 4  # ... and one of them is taken


def test_of_two_attempts_the_first_to_end_counts_and_the_other_charges_nothing(
    store: RunStore, log: Log
) -> None:
    chain = make_chain(store, log, names=("a",), num_shards=3)
    for shard_id in range(3):
        assert chain.next_shard(0) == shard_id
        chain.again(0, shard_id)
    finish(chain, store, 0, 0)
    chain.failed(0, 0, "of the second attempt")
    finish(chain, store, 0, 0)
    chain.interrupted(0, 1, "the first one's worker died")
    finish(chain, store, 0, 1)
    chain.failed(0, 2, "the first one")
    assert log.trouble == []
    assert chain.next_shard(0) is None
    chain.failed(0, 2, "the other one too")
    assert [line for line in log.trouble if "try 1 of 3" in line]
    assert chain.next_shard(0) == 2
    assert log.commits == [("a", 0), ("a", 1)]


def test_last_step_is_not_held_back(store: RunStore, log: Log) -> None:
    chain = make_chain(store, log, names=("a",))
    assert [chain.next_shard(0, max_ahead=1) for _ in range(3)] == [0, 1, 2]


def test_committed_shards_are_not_run_again(store: RunStore, log: Log) -> None:
    for step, shard_id in (("a", 0), ("b", 0), ("a", 2)):
        commit(store, step, shard_id)
    chain = make_chain(store, log)
    assert chain.next_shard(0) == 1
    assert chain.next_shard(0) is None
    assert chain.next_shard(1) == 2
    assert chain.next_shard(1) is None
    assert log.commits == []


def test_shard_that_only_the_last_step_has_committed_is_not_scored_twice(
    store: RunStore, log: Log
) -> None:
    commit(store, "b", 1)  # its parent's manifest is gone
    chain = make_chain(store, log)
    assert [chain.next_shard(0) for _ in range(3)] == [0, 1, 2]
    finish(chain, store, 0, 1)
    assert chain.next_shard(1) is None
    assert chain.states[1].done == 1


def test_finished_chain_is_done_at_once(store: RunStore, log: Log) -> None:
    for shard_id in range(3):
        commit(store, "a", shard_id)
        commit(store, "b", shard_id)
    assert make_chain(store, log).is_done


def test_run_without_shards_is_done(store: RunStore, log: Log) -> None:
    assert make_chain(store, log, num_shards=0).is_done


def test_failing_shard_is_tried_again_first_and_quarantined_after_its_budget(
    store: RunStore, log: Log
) -> None:
    chain = make_chain(store, log)
    for attempt in range(3):
        assert chain.next_shard(0) == 0
        chain.failed(0, 0, "Traceback ...\nValueError: poison")
        assert len(log.trouble) >= attempt + 1
    assert log.trouble == [
        "a shard 0: try 1 of 3: ValueError: poison",
        "a shard 0: try 2 of 3: ValueError: poison",
        "a shard 0: try 3 of 3: ValueError: poison",
        "a shard 0: quarantined",
    ]
    manifest = read_manifest(store, "a", "f0", 0)
    assert manifest is not None
    assert manifest.quarantined == "Traceback ...\nValueError: poison"
    assert (manifest.rows_in, manifest.kept) == (ROWS, 0)
    assert manifest.dropped == {"shard_quarantined": ROWS}
    assert chain.quarantined == 1
    assert chain.next_shard(0) == 1
    assert chain.next_shard(1) == 0  # the next step has the shard all the same


def test_no_secret_of_an_error_is_stored_or_said(store: RunStore, log: Log) -> None:
    chain = make_chain(store, log, num_shards=2)
    error = "ClientResponseError: 403, url='https://me:pass1@host/list.csv?X-Amz-Signature=sig1'"
    for shard_id, tell, budget in ((0, chain.failed, 3), (1, chain.interrupted, 4)):
        for _ in range(budget):
            assert chain.next_shard(0) == shard_id
            tell(0, shard_id, error)
        manifest = read_manifest(store, "a", "f0", shard_id)
        assert manifest is not None
        assert manifest.quarantined is not None
        for text in (manifest.quarantined, *log.trouble):
            assert "pass1" not in text
            assert "sig1" not in text


def test_fault_of_every_shard_stops_the_job_before_all_are_given_up(
    store: RunStore, log: Log
) -> None:
    chain = make_chain(store, log, names=("a",), num_shards=30)
    finish(chain, store, 0, chain.next_shard(0) or 0)

    def fail_on() -> None:
        while (shard_id := chain.next_shard(0)) is not None:
            chain.failed(0, shard_id, "OSError: no space left on device")

    with pytest.raises(EngineError, match=r"10 shards in a row .* shard 11 .* no space left"):
        fail_on()
    assert chain.quarantined == 10
    assert read_manifest(store, "a", "f0", 11) is None
    assert make_chain(store, log, names=("a",), num_shards=30).next_shard(0) == 11


def test_quarantine_loses_to_a_manifest_that_is_there_already(store: RunStore, log: Log) -> None:
    chain = make_chain(store, log)
    chain.next_shard(0)
    winner = commit(store, "a", 0)  # a worker thought lost had committed after all
    for _ in range(3):
        chain.failed(0, 0, "boom")
        chain.next_shard(0)
    assert read_manifest(store, "a", "f0", 0) == winner
    assert chain.quarantined == 0


def test_dead_workers_are_charged_to_another_larger_budget(store: RunStore, log: Log) -> None:
    chain = make_chain(store, log)
    for _ in range(2):
        chain.next_shard(0)
        chain.failed(0, 0, "boom")
    for _ in range(3):
        assert chain.next_shard(0) == 0
        chain.interrupted(0, 0, "killed")
    assert read_manifest(store, "a", "f0", 0) is None
    assert chain.next_shard(0) == 0
    chain.interrupted(0, 0, "killed")
    manifest = read_manifest(store, "a", "f0", 0)
    assert manifest is not None
    assert manifest.quarantined == "its workers died 4 times: killed"


def test_returned_shard_is_owed_again_first_and_uncharged(store: RunStore, log: Log) -> None:
    chain = make_chain(store, log)
    for _ in range(50):
        assert chain.next_shard(0) == 0
        chain.returned(0, 0)
    assert log.trouble == []
    assert chain.next_shard(0) == 0
    finish(chain, store, 0, 0)
    assert chain.states[0].done == 1


def test_shard_quarantined_by_an_earlier_job_is_not_tried_again(store: RunStore, log: Log) -> None:
    commit(store, "a", 0, quarantined="boom")
    chain = make_chain(store, log)
    assert chain.next_shard(0) == 1
    assert chain.next_shard(1) == 0
