"""One writer a run: a live one is respected, a dead one replaced, a paused one notices."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.run.lease import LEASE_FILE, Lease, LeaseHeldError
from pipelines.run.record import StepIdentity, complete_step, read_revision, write_revision
from pipelines.run.store import RunStore

_HOLD = """
import sys, time
from pipelines.run.lease import Lease
from pipelines.run.store import RunStore
with Lease(RunStore(sys.argv[1]), say=print, beat_s=0.05, expiry_s=30.0):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path))


def quick(
    store: RunStore, said: list[str], *, beat_s: float = 0.05, expiry_s: float = 0.5
) -> Lease:
    return Lease(store, say=said.append, beat_s=beat_s, expiry_s=expiry_s)


def holder(store: RunStore) -> dict[str, object]:
    tree: dict[str, object] = json.loads(store.read_bytes(LEASE_FILE))
    return tree


def write_holder(store: RunStore, **changes: object) -> None:
    """The lease of a job on another host that has stopped beating."""
    with quick(store, []):
        tree = holder(store)
    tree |= {"token": "other", "host": "elsewhere", "boot": "other", "pid": 7, **changes}
    store.replace(LEASE_FILE, json.dumps(tree).encode())


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@pytest.fixture
def other_job(store: RunStore) -> subprocess.Popen[str]:
    """A job in another process that holds the lease and beats."""
    root = Path(__file__).resolve().parents[3]
    job = subprocess.Popen(
        [sys.executable, "-c", _HOLD, store.root],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    with job:
        assert job.stdout is not None
        assert job.stdout.readline() == "held\n"
        yield job
        job.kill()


def test_lease_is_there_while_held_and_gone_afterwards(store: RunStore) -> None:
    said: list[str] = []
    with quick(store, said) as lease:
        assert holder(store)["pid"] == os.getpid()
        lease.check()
    assert not store.exists(LEASE_FILE)
    assert said == []


def test_lease_is_given_back_when_the_job_fails(store: RunStore) -> None:
    with pytest.raises(ValueError, match="boom"), quick(store, []):
        raise ValueError("boom")
    assert not store.exists(LEASE_FILE)


def test_lease_is_given_back_without_a_new_thread_where_memory_is_out(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python waits for ever for a thread that there is no memory for."""

    def work() -> None:
        with quick(store, []):
            monkeypatch.setattr(threading.Thread, "start", lambda thread: pytest.fail("new"))
            raise MemoryError

    with pytest.raises(MemoryError):
        work()
    assert not store.exists(LEASE_FILE)


def test_heartbeat_renews_the_lease(store: RunStore) -> None:
    with quick(store, []):
        first = holder(store)["heartbeat"]
        eventually(lambda: holder(store)["heartbeat"] != first)


def test_live_second_writer_is_refused_and_named(
    store: RunStore, other_job: subprocess.Popen[str]
) -> None:
    said: list[str] = []
    with (
        pytest.raises(LeaseHeldError, match=rf"pid {other_job.pid} on .* is writing this run"),
        quick(store, said, expiry_s=20.0),
    ):
        pass
    assert holder(store)["pid"] == other_job.pid
    assert "waiting up to 20 s" in said[0]


def test_writer_that_stops_while_another_waits_hands_over(store: RunStore) -> None:
    # The first beats so slowly that it looks dead, and then leaves in good order.
    first, done = quick(store, [], beat_s=30.0), threading.Event()

    def hold() -> None:
        with first:
            held.set()
            done.wait(10.0)

    held = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10.0)
    threading.Timer(0.1, done.set).start()
    with quick(store, [], expiry_s=20.0):
        assert not thread.is_alive() or done.is_set()
    thread.join()


def test_dead_holder_on_this_host_is_replaced_at_once(
    store: RunStore, other_job: subprocess.Popen[str]
) -> None:
    os.kill(other_job.pid, signal.SIGKILL)
    other_job.wait()
    said: list[str] = []
    with quick(store, said, expiry_s=3600.0):
        assert holder(store)["pid"] == os.getpid()
    assert said == [f"the job that held this run (pid {other_job.pid}) is gone: taking over"]


def test_dead_holder_whose_pid_is_used_again_is_replaced_at_once(store: RunStore) -> None:
    said: list[str] = []
    with quick(store, []):
        tree = holder(store)
    tree |= {"token": "other", "started": "1"}  # our own pid, begun at another time
    store.replace(LEASE_FILE, json.dumps(tree).encode())
    with quick(store, said, expiry_s=3600.0):
        pass
    assert "is gone: taking over" in said[0]


def test_silent_holder_on_another_host_is_replaced_after_expiry_only(store: RunStore) -> None:
    write_holder(store)
    said: list[str] = []
    started = time.monotonic()
    with quick(store, said, expiry_s=0.3):
        assert time.monotonic() - started >= 0.3
    assert "is leased to pid 7 on elsewhere: waiting" in said[0]
    assert said[1] == "the lease has expired: taking over"


def test_beating_holder_on_another_host_is_respected_whatever_its_clock_says(
    store: RunStore,
) -> None:
    write_holder(store, heartbeat=0.0)
    stop = threading.Event()

    def beat() -> None:
        number = 1.0
        while not stop.wait(0.02):
            tree = holder(store) | {"heartbeat": number}
            store.replace(LEASE_FILE, json.dumps(tree).encode())
            number += 1.0

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with (
            pytest.raises(LeaseHeldError, match="pid 7 on elsewhere is writing"),
            quick(store, [], expiry_s=20.0),
        ):
            pass
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}"])
def test_unreadable_lease_expires_like_any_other(store: RunStore, content: bytes) -> None:
    store.replace(LEASE_FILE, content)
    with quick(store, [], expiry_s=0.2):
        assert holder(store)["pid"] == os.getpid()


def test_paused_holder_notices_that_it_was_replaced_and_leaves_the_new_lease_alone(
    store: RunStore,
) -> None:
    with quick(store, []) as paused:
        write_holder_now = json.dumps(holder(store) | {"token": "other"}).encode()
        store.replace(LEASE_FILE, write_holder_now)
        eventually(lambda: paused.lost)
        with pytest.raises(LeaseHeldError, match="another job took this run over"):
            paused.check()
    assert holder(store)["token"] == "other"


def test_holder_whose_lease_was_deleted_notices(store: RunStore) -> None:
    with quick(store, []) as lease:
        store.delete(LEASE_FILE)
        eventually(lambda: lease.lost)


class FlakyStore(RunStore):
    """A storage that fails for a while, as object stores' clients do: not only by OSError."""

    failures: list[Exception]

    def replace(self, path: str, content: bytes) -> None:
        if self.__dict__.get("failures"):
            raise self.__dict__["failures"].pop()
        super().replace(path, content)


def test_heartbeat_outlives_storage_that_fails_for_a_while(tmp_path: Path) -> None:
    store = FlakyStore(str(tmp_path))
    store.__dict__["failures"] = [OSError("reset"), RuntimeError("no endpoint with key hunter2")]
    said: list[str] = []
    with quick(store, said) as lease:
        first = holder(store)["heartbeat"]
        eventually(lambda: holder(store)["heartbeat"] != first)
        assert not lease.lost
    assert said == [
        "the lease's heartbeat could not be written: RuntimeError",
        "the lease's heartbeat could not be written: OSError",
    ]


def test_a_job_that_slept_past_its_lease_overwrites_nothing_of_the_next_and_removes_nothing(
    store: RunStore,
) -> None:
    later = RunStore(store.root)

    def sleep_and_be_taken_over() -> None:
        with quick(later, [], expiry_s=0.2):
            write_revision(later, 7, {})

    def complete() -> None:
        identity = StepIdentity(step="select", options={})
        complete_step(
            store, identity, num_shards=0, folders=(), later=(), publish=sleep_and_be_taken_over
        )

    changes: list[Callable[[], object]] = [
        complete,
        lambda: store.replace("run.json", b"{}"),
        lambda: store.at_top().replace("readers.json", b"{}"),
        lambda: store.delete("revision.json"),
        lambda: store.delete_all(["revision.json"]),
        lambda: store.delete_folder("."),
    ]
    with quick(store, [], beat_s=100.0, expiry_s=0.2):  # a heart that does not beat in time
        for change in changes:
            with pytest.raises(LeaseHeldError):
                change()
    assert read_revision(later).number == 7
    assert store.list_files("") == ["revision.json"]
