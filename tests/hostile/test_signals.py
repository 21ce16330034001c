"""SIGTERM and SIGINT at any write, and while a server or a store does not answer: the job ends
within seconds, the lease is given back, and the same command goes on."""

import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipelines.run.folder import is_run
from pipelines.run.store import RunStore
from tests.hostile import children
from tests.hostile.faults import Kill, ShortLease
from tests.hostile.protocols import PROTOCOLS, check_ending
from tests.hostile.tally import Tally, only
from tests.hostile.world import World, faults_of

pytestmark = pytest.mark.slow
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
ENDS_S = 5.0


def _check_stopped(ended: children.Ended, number: signal.Signals, run: Path) -> None:
    check_ending(ended, CODES[number])
    assert ended.err.strip().splitlines()[-1].startswith(f"stopped by {number.name}"), ended.err
    assert not (run / "lease.json").exists(), "the lease is held"


@pytest.mark.parametrize(
    "name", ["curate", *only("generate", "train", "takedown", "grow", "clean")]
)
def test_stopped_at_any_write_the_same_command_goes_on(
    world: World, tally: Callable[[str], Tally], name: str
) -> None:
    protocol, tallied = PROTOCOLS[name], tally(f"signal at a write: {name}")
    unharmed = protocol.begin(world)
    counted = unharmed / "writes"
    check_ending(protocol.run(world, unharmed, fault=Kill(0, "", str(counted))), 0)
    # The last write gives the lease back: from there on a job has ended.
    moments = [(at, number) for at in range(1, counted.stat().st_size) for number in CODES]
    drawn = sorted(tallied.random.sample(moments, min(12, len(moments))))
    for at, number in tallied.some(drawn, few=1):
        with tallied.case(f"{number.name} at write {at}"):
            case = protocol.begin(world)
            fault = Kill(at, "after", str(case / "writes"), number)
            _check_stopped(protocol.run(world, case, fault=fault), number, case / "run")
            if name != "train" and is_run(RunStore(str(case / "run"))):
                assert faults_of(case / "run", deep=False) == []
            protocol.go_on(world, case)
            protocol.check(case, unharmed)
            shutil.rmtree(case)
    tallied.close()


def test_stopped_while_servers_are_slow_it_ends_within_seconds(
    world: World, tally: Callable[[str], Tally]
) -> None:
    tallied = tally("signal while a server is slow")
    cases = [(number, wait) for number in CODES for wait in (0.2, 1.0, 2.0)]
    for number, wait_s in tallied.some(cases):
        with tallied.case(f"{number.name} after {wait_s} s"):
            case = world.new("slow")
            # More rows in a shard than twice the threads: the pool's feeder waits for a place.
            options = {"plan__rows_per_shard": 12, "download__threads": 2}
            arguments = world.curate(case / "run", **options)
            world.server.hits.clear()
            world.server.delay_s = 2.0
            try:
                job = children.Job("curate", arguments, folder=case)
                _wait_for(lambda: bool(world.server.hits))
                time.sleep(wait_s)
                job.send(number)
                sent = time.monotonic()
                ended = job.end()
                took_s = time.monotonic() - sent
            finally:
                world.server.delay_s = 0.0
            _check_stopped(ended, number, case / "run")
            assert took_s < ENDS_S, f"{took_s:.1f} s"
            check_ending(children.run("curate", arguments, folder=case), 0)
            assert faults_of(case / "run") == []
    tallied.close()


@pytest.mark.hostile
def test_a_job_that_sleeps_through_its_lease_commits_nothing_when_it_wakes(
    world: World, tally: Callable[[str], Tally]
) -> None:
    tallied, protocol = tally("paused past its lease"), PROTOCOLS["curate"]
    unharmed = protocol.begin(world)
    counted = unharmed / "writes"
    check_ending(protocol.run(world, unharmed, fault=Kill(0, "", str(counted))), 0)
    moments = range(2, counted.stat().st_size - 2)
    for at in tallied.some(tallied.random.sample(moments, 5), few=1):
        with tallied.case(f"at write {at}"):
            case, other = protocol.begin(world), world.new("other")
            stop = Kill(at, "after", str(case / "writes"), signal.SIGSTOP)
            arguments = protocol.arguments(world, case / "run")
            asleep = children.Job("curate", arguments, folder=case, fault=ShortLease(stop))
            try:
                _wait_for(partial(_is_stopped, asleep))
                taken = children.run("curate", arguments, folder=other, fault=ShortLease())
                check_ending(taken, 0)
                before = protocol.content(case / "run")
            finally:
                asleep.send(signal.SIGCONT)
            check_ending(asleep.end(), 0, 75)  # 0: it found all of it committed by the other
            assert protocol.content(case / "run") == before
            protocol.check(case, unharmed)
    tallied.close()


def _is_stopped(job: children.Job) -> bool:
    stat = Path(f"/proc/{job.process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "T"


def _wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + children.DEADLINE_S
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ready()
