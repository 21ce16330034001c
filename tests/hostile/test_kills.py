"""`kill -9` at each write of each job, before it and within it: the same command goes on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.faults import Kill
from tests.hostile.protocols import PROTOCOLS, Protocol, check_ending
from tests.hostile.tally import Tally
from tests.hostile.world import World, faults_of, shown


@pytest.mark.slow
@pytest.mark.parametrize("name", PROTOCOLS)
def test_killed_at_any_write_the_same_command_goes_on_to_the_bytes_of_an_unharmed_run(
    world: World, tally: Callable[[str], Tally], name: str
) -> None:
    protocol, tallied = PROTOCOLS[name], tally(f"kill -9 at a write: {name}")
    unharmed = protocol.begin(world)
    counted = unharmed / "writes"
    check_ending(protocol.run(world, unharmed, fault=Kill(0, "", str(counted))), 0)
    num_writes = counted.stat().st_size
    for at in tallied.some(range(1, num_writes + 1), few=1 if protocol.also is None else 2):
        moment = tallied.random.choice(("before", "torn"))
        with tallied.case(f"{moment} write {at} of {num_writes}"):
            _kill_and_go_on(world, protocol, unharmed, at=at, moment=moment)
    tallied.close()


def _kill_and_go_on(
    world: World, protocol: Protocol, unharmed: Path, *, at: int, moment: str
) -> None:
    case = protocol.begin(world)
    before = shown(case / "run")
    killed = protocol.run(world, case, fault=Kill(at, moment, str(case / "writes")))
    check_ending(killed, -9)
    if protocol.job != "train":
        _check_readers(case / "run", before, shown(unharmed / "run"))
    protocol.go_on(world, case, also=bool(at % 2))
    protocol.check(case, unharmed)
    shutil.rmtree(case)


def _check_readers(run: Path, before: dict[str, str], after: dict[str, str]) -> None:
    """What readers find at any moment is what there was or what comes, never a part of it."""
    for path, found in shown(run).items():
        assert found in (before.get(path), after.get(path), ""), f"readers find {path} half done"
    if (run / "revision.json").exists():
        assert faults_of(run, deep=False) == []
