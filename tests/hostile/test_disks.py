"""Full, read-only and broken disks, under the output and under the spool: exit 75, nothing is
given up, and the same command with room makes the bytes of an unharmed run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.disks import Disk, can_mount, keep, pages_of
from tests.hostile.faults import BrokenDisk
from tests.hostile.protocols import PROTOCOLS, Protocol, check_ending
from tests.hostile.tally import Tally, only
from tests.hostile.world import World, faults_of

LEVELS = 10
_SPOOL_PAGES = {"curate": 48, "generate": 48, "train": 400}
"""More than what a job of this world has in its temporary folder at any time."""


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> None:
    if not can_mount(tmp_path_factory.mktemp("mount")):
        pytest.skip("this user may not mount a disk in a namespace of its own")


@pytest.fixture(scope="module")
def unharmed(world: World) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in made:
            made[name] = PROTOCOLS[name].begin(world)
            check_ending(PROTOCOLS[name].run(world, made[name]), 0)
        return made[name]

    return find


@pytest.mark.slow
@pytest.mark.parametrize("name", ["curate", "train", *only("generate", "takedown", "grow")])
def test_a_disk_that_is_full_under_the_output_is_the_environment(
    mounts: None,
    world: World,
    unharmed: Callable[[str], Path],
    tally: Callable[[str], Tally],
    name: str,
) -> None:
    protocol, tallied = PROTOCOLS[name], tally(f"disk full under the output: {name}")
    reference = unharmed(name)
    base = 0 if protocol.base is None else pages_of(protocol.base(world))
    room = pages_of(reference / "run") - base
    for level in tallied.some(range(LEVELS), few=1):
        pages = base + int(room * (level + tallied.random.random()) / LEVELS)
        with tallied.case(f"{pages} of {base + room} pages"):
            case = protocol.begin(world)
            disk = Disk(folder=str(case / "run"), pages=max(1, pages))
            _stop_and_go_on(world, protocol, case, reference, disk)
    tallied.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["curate", *only("generate", "train")])
def test_a_disk_that_is_full_under_the_spool_is_the_environment(
    mounts: None,
    world: World,
    unharmed: Callable[[str], Path],
    tally: Callable[[str], Tally],
    name: str,
) -> None:
    protocol, tallied = PROTOCOLS[name], tally(f"disk full under the spool: {name}")
    for level in tallied.some(range(LEVELS), few=1):
        pages = 1 + int(_SPOOL_PAGES[name] * (level / LEVELS) ** 2)
        with tallied.case(f"{pages} pages"):
            case = protocol.begin(world)
            disk = Disk(folder=str(case / "tmp"), pages=pages)
            _stop_and_go_on(world, protocol, case, unharmed(name), disk)
    tallied.close()


@pytest.mark.slow
def test_a_disk_without_room_for_files_or_writes_is_the_environment(
    mounts: None, world: World, unharmed: Callable[[str], Path], tally: Callable[[str], Tally]
) -> None:
    tallied = tally("disk read-only, or out of inodes")
    kinds = [
        (name, folder, read_only)
        for name in ("curate", "generate", "takedown")
        for folder in ("run", "tmp")
        for read_only in (True, False)
    ]
    for name, folder, read_only in tallied.some(kinds):
        protocol = PROTOCOLS[name]
        with tallied.case(f"{name}, {folder}, {'read-only' if read_only else 'inodes'}"):
            case = protocol.begin(world)
            files = None if read_only else 3 + len(list((case / folder).rglob("*")))
            disk = Disk(folder=str(case / folder), read_only=read_only, files=files)
            _stop_and_go_on(world, protocol, case, unharmed(name), disk)
    tallied.close()


@pytest.mark.slow
def test_a_disk_that_breaks_is_the_environment(
    world: World, unharmed: Callable[[str], Path], tally: Callable[[str], Tally]
) -> None:
    tallied = tally("disk breaks (EIO)")
    kinds = [(name, at) for name in ("curate", "generate", "train", "takedown") for at in range(4)]
    for name, part in tallied.some(kinds, few=1):
        protocol = PROTOCOLS[name]
        at = 1 + part * 7 + tallied.random.randrange(7)
        with tallied.case(f"{name}, write {at}"):
            case = protocol.begin(world)
            ended = protocol.run(world, case, fault=BrokenDisk(at))
            check_ending(ended, 75, 0)
            _check_told(ended.code, ended.err)
            _go_on(world, protocol, case, unharmed(name))
    tallied.close()


def _stop_and_go_on(
    world: World, protocol: Protocol, case: Path, reference: Path, disk: Disk
) -> None:
    ended = protocol.run(world, case, fault=disk)
    check_ending(ended, 75, 0)
    _check_told(ended.code, ended.err)
    keep(Path(disk.folder))
    _go_on(world, protocol, case, reference)


def _check_told(code: int | None, told: str) -> None:
    assert code == 0 or "the same command goes on" in told.splitlines()[-1], told


def _go_on(world: World, protocol: Protocol, case: Path, reference: Path) -> None:
    if protocol.job != "train" and (case / "run/revision.json").exists():
        assert faults_of(case / "run", deep=False) == []
    protocol.go_on(world, case)
    protocol.check(case, reference)
    shutil.rmtree(case)
