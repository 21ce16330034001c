"""The jobs that write, each with what it begins on, its command, and what must come of it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.contracts import cases, training_cases
from tests.hostile import children
from tests.hostile.disks import copy_linked
from tests.hostile.faults import NoLinks
from tests.hostile.world import RECUT, World, faults_of, shown

_VOLATILE = ("lease.json", "rates.json", "status.json")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One command that writes to a run.

    Args:
        base: The run before it, made once; None where it makes the run.
        content: What has to be the same as after an unharmed command, by path.
        also: Another command that goes on with it, as well as the same one.
        cleaned: Whether a clean-up follows, so that nothing but what is shown is left.
        may_fetch: Which paths it asks the server for, also after a kill.
        has_links: Whether the disk has hard links; the run before it comes from one that has.
    """

    name: str
    job: str
    arguments: Callable[[World, Path], list[str]]
    content: Callable[[Path], dict[str, Any]]
    base: Callable[[World], Path] | None = None
    also: Callable[[World, Path], list[str]] | None = None
    cleaned: bool = False
    may_fetch: Callable[[str], bool] = lambda path: True
    has_links: bool = True

    def begin(self, world: World) -> Path:
        """A folder with the run before the command."""
        case = world.new(self.name)
        if self.base is not None:
            copy_linked(self.base(world), case / "run")
        return case

    def run(
        self, world: World, case: Path, *, fault: children.Fault | None = None
    ) -> children.Ended:
        """Give the command on a case's run."""
        arguments = self.arguments(world, case / "run")
        fault = fault if self.has_links else NoLinks(fault)
        return children.run(self.job, arguments, folder=case, fault=fault)

    def go_on(self, world: World, case: Path, *, also: bool = False) -> None:
        """Give the command again, after the other one where `also` is true and there is one."""
        world.server.hits.clear()
        if also and self.also is not None:
            check_ending(children.run("curate", self.also(world, case / "run"), folder=case), 0)
        again = self.run(world, case)
        check_ending(again, 0)
        if "nothing to do" in again.out:  # all of it was done: the lease of the dead is left
            (case / "run/lease.json").unlink(missing_ok=True)
        fetched = sorted(path for path in world.server.hits if not self.may_fetch(path))
        assert not fetched, f"fetched again: {fetched}"

    def check(self, case: Path, unharmed: Path) -> None:
        """Raise AssertionError where the run is not the unharmed one, whole and clean."""
        for folder in (case, unharmed):
            if self.cleaned and not (folder / "cleaned").exists():
                arguments = [str(folder / "run"), "--grace", "0s"]
                check_ending(children.run("clean", arguments, folder=folder), 0)
                (folder / "cleaned").touch()
        found, wanted = self.content(case / "run"), self.content(unharmed / "run")
        differ = sorted(p for p in {*found, *wanted} if found.get(p) != wanted.get(p))
        assert not differ, f"not as unharmed: {differ[:5]}"
        if self.job != "train":
            assert faults_of(case / "run") == []
        left = sorted(path.name for path in (case / "tmp").glob("*"))
        assert not left, f"left in the temporary folder: {left}"
        assert not (case / "run/lease.json").exists(), "the lease is held"


def check_ending(ended: children.Ended, *codes: int) -> None:
    """Raise AssertionError unless a job ended with one of the codes, by its deadline, within its
    memory, with one line and no trace where it is not 0."""
    told = f"{ended.code} after {ended.took_s:.1f} s: {ended.err[-1500:]}"
    assert ended.code is not None, f"did not end: {told}"
    assert ended.code in codes, told
    assert children.TRACE not in ended.out + ended.err, f"a trace: {told}"
    assert ended.peak_mib < children.MAX_MIB, f"{ended.peak_mib:.0f} MiB"


def _trained(run: Path) -> dict[str, Any]:
    return {**training_cases.weights_digests(run), "losses": training_cases.losses(run)}


def _every_file(run: Path) -> dict[str, str]:
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in _VOLATILE
    }


def _keys(world: World) -> Path:
    """A list of one kept row's key."""
    path = world.folder / "keys.txt"
    if not path.exists():
        ledger = pq.ParquetDataset(sorted((world.curated / "ledger").glob("0*.parquet"))).read()
        path.write_text(ledger.filter(ledger["kept"])["key"][0].as_py() + "\n")
    return path


def _once(name: str, make: Callable[[World, Path], None]) -> Callable[[World], Path]:
    def base(world: World) -> Path:
        path = world.folder / f"base-{name}"
        if not path.exists():
            make(world, path)
        return path

    return base


def _taken_down(world: World, run: Path) -> None:
    copy_linked(world.curated, run)
    world.must("takedown", str(run), "--keys", str(_keys(world)))


def _ungrown(world: World, run: Path) -> None:
    rows = pq.read_table(world.list_path)
    pq.write_table(rows.slice(0, 6), world.folder / "grown.parquet")
    world.must("curate", *world.curate(run, path=world.folder / "grown.parquet"))
    pq.write_table(
        pa.concat_tables([rows.slice(0, 9), rows.slice(0, 1)]), world.folder / "grown.parquet"
    )


def _failed(world: World, run: Path) -> None:
    world.flaky_up = False
    world.must("curate", *world.curate(run, path=world.flaky_list))
    world.flaky_up = True


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="curate",
            job="curate",
            arguments=lambda world, run: world.curate(run),
            content=cases.data_files,
        ),
        Protocol(
            name="generate",
            job="generate",
            arguments=lambda world, run: world.generate(run),
            content=cases.data_files,
        ),
        Protocol(
            name="train",
            job="train",
            arguments=lambda world, run: world.train(run),
            content=_trained,
        ),
        Protocol(
            name="takedown",
            job="takedown",
            arguments=lambda world, run: [str(run), "--keys", str(_keys(world))],
            content=cases.data_files,
            cleaned=True,
            base=lambda world: world.curated,
            also=lambda world, run: world.curate(run),
            may_fetch=lambda path: False,
        ),
        Protocol(
            name="clean",
            job="clean",
            arguments=lambda world, run: [str(run), "--grace", "0s"],
            content=_every_file,
            base=_once("clean", _taken_down),
        ),
        Protocol(
            name="grow",
            job="curate",
            arguments=lambda world, run: world.curate(
                run, "--grow", path=world.folder / "grown.parquet"
            ),
            content=shown,
            base=_once("grow", _ungrown),
            may_fetch=lambda path: path not in {f"/{number:03d}.png" for number in range(1, 6)},
        ),
        Protocol(
            name="re-cut",
            job="curate",
            arguments=lambda world, run: world.curate(
                run, "--steps", "select,encode", select__rules=RECUT
            ),
            content=shown,
            base=lambda world: world.curated,
            may_fetch=lambda path: False,
        ),
        Protocol(
            name="retry",
            job="curate",
            arguments=lambda world, run: world.curate(run, "--retry", path=world.flaky_list),
            content=shown,
            base=_once("retry", _failed),
            also=lambda world, run: world.curate(run, path=world.flaky_list),
            may_fetch=lambda path: path == "/flaky.png",
        ),
    )
}
PROTOCOLS |= {
    f"{name}, no links": replace(PROTOCOLS[name], also=None, has_links=False)
    for name in ("re-cut", "takedown")
}
