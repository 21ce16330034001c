"""Do all readers find exactly the kept rows of a run of many shards, and what does showing cost?"""

import re
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from jobs.bench.counting import counted_operations
from jobs.bench.made_run import MadeRun
from jobs.bench.reader_calls import Found, reader_calls
from jobs.bench.s3_emulator import s3_emulator
from pipelines.plan import load_plan
from pipelines.report.card import write_card
from pipelines.revisions.readers import show_revision
from pipelines.revisions.takedown import take_down
from pipelines.rules.tombstones import tombstones_of
from pipelines.run.on_threads import do_all
from pipelines.run.store import RunStore
from sd_core.say import Say

_ROWS_PER_SHARD: Final = 2
_STEPS: Final = ("download", "score", "select", "publish", "encode")
_RE_CUTS: Final = 5
_SHARE: Final = 100
"""One shard in so many is changed by a re-cut, added by a growth, loses a row to a takedown."""
_NOT_READ: Final = re.compile(
    r"_work/(images/0|facts/|readers\.json|manifests/.*/(?!000000)\d+\.json)"
)
"""Files that neither readers nor what shows them go by; of the manifests the card reads one."""


@dataclass(frozen=True, kw_only=True)
class ReadersBench:
    """How many shards readers read, and how many a re-cut is priced at; 0: not that."""

    shards: int
    priced_shards: int


@dataclass(frozen=True, kw_only=True)
class ReaderResult:
    """What one reader gave of one revision.

    Attributes:
        is_good_enough: Whether its keys are those that were kept, and its rows as many as wanted.
    """

    where: str
    revision: str
    reader: str
    rows: int
    wanted: int
    is_good_enough: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PriceResult:
    """What `show_revision` and the card did after a re-cut.

    Attributes:
        operations: By name, as the run asked for them and, `s3 ...`, as the store was asked.
    """

    where: str
    what: str
    shards: int
    changed: int
    seconds: float
    operations: Mapping[str, int] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Case:
    """A run on a disk, and the same on a store: its committed files are copied there, and shown.

    Attributes:
        left_out: How the paths begin that are not copied.
    """

    run: MadeRun
    there: RunStore
    left_out: tuple[str, ...] = ()
    copied: set[str] = field(default_factory=set)

    def show(self, revision: str, *, changed: int) -> Iterator[PriceResult]:
        """Bring what readers open up to the run, on both."""
        self._copy()
        works = {"lists": show_revision, "card": write_card}
        for store in (self.run.store, self.there):
            for name, work in works.items():
                begin = time.perf_counter()
                with counted_operations() as counts:
                    work(store)
                yield PriceResult(
                    where=_where(store),
                    what=f"{revision}: {name}",
                    shards=len(self.run.cut_of),
                    changed=changed,
                    seconds=time.perf_counter() - begin,
                    operations=dict(counts),
                )

    def read(self, store: RunStore, revision: str, gone: Collection[str]) -> Iterator[ReaderResult]:
        """What each reader gives, which is to be all rows, or the kept ones without those gone."""
        keys = [key for key in self.run.kept_keys() if key not in gone]
        for reader, call in reader_calls(store, str(self.run.folder / "datasets")):
            begin = time.perf_counter()
            found = call()
            seconds = time.perf_counter() - begin
            rows = len(self.run.urls) if reader.startswith("ledger") else len(keys)
            yield ReaderResult(
                where=_where(store),
                revision=revision,
                reader=reader,
                rows=found.rows,
                wanted=rows,
                is_good_enough=found == Found(rows=rows, keys=keys),
                seconds=seconds,
            )

    def _copy(self) -> None:
        here, there = self.run.store.at_top(), self.there.at_top()
        root = Path(here.root)
        found = (path for path in [*root.glob("*.json"), *root.glob("_work/**/*")])
        paths = (str(path.relative_to(root)) for path in found if path.is_file())
        new = [
            path
            for path in paths
            if not (_NOT_READ.match(path) or path.startswith(self.left_out) or path in self.copied)
        ]
        copy = partial(_copy_file, here, there)
        do_all(copy, new, num_threads=there.num_threads)
        self.copied.update(path for path in new if "-" in Path(path).name)  # named by its hash


def measure_readers(bench: ReadersBench, *, say: Say) -> list[ReaderResult | PriceResult]:
    """Read a run after each thing that may happen to it; price a re-cut of a larger one."""
    results: list[ReaderResult | PriceResult] = []
    with s3_emulator() as endpoint, tempfile.TemporaryDirectory(prefix="bench-readers-") as name:
        for shards, work in ((bench.shards, _read), (bench.priced_shards, _price)):
            if shards:
                folder = Path(name) / f"{shards}"
                folder.mkdir()
                there = RunStore(f"s3://{endpoint.bucket}/{shards}", endpoint.storage_options)
                run = MadeRun(
                    store=RunStore(f"{folder}/run"),
                    folder=folder,
                    rows_per_shard=_ROWS_PER_SHARD,
                    steps=_STEPS,
                )
                run.make(shards)
                say(f"{shards:,} shards are made")
                for result in work(_Case(run=run, there=there)):
                    say(_line(result))
                    results.append(result)
    return results


def _read(case: _Case) -> Iterator[ReaderResult | PriceResult]:
    run, some = case.run, max(1, len(case.run.cut_of) // _SHARE)
    yield from case.show("first", changed=len(run.cut_of))
    yield from case.read(run.store, "first", ())
    yield from case.read(case.there, "first", ())
    for number in range(1, _RE_CUTS + 1):
        run.recut(load_plan(run.store), range(number, len(run.cut_of), _SHARE))
        yield from case.show(f"re-cut {number}", changed=some)
    yield from case.read(run.store, "five re-cuts", ())
    run.grow(load_plan(run.store), some)
    yield from case.show("growth", changed=some)
    yield from case.read(run.store, "growth", ())
    gone = run.kept_keys()[:some]
    take_down(run.store, tombstones_of(keys=gone), say=lambda line: None)
    yield from case.show("takedown", changed=some)
    for store in (run.store, case.there):
        yield from case.read(store, "takedown", gone)


def _price(case: _Case) -> Iterator[PriceResult]:
    case.left_out = ("_work/kept/0", "_work/latents/0")  # nothing reads them
    yield from case.show("first", changed=len(case.run.cut_of))
    changed = range(1, len(case.run.cut_of), _SHARE)
    case.run.recut(load_plan(case.run.store), changed)
    yield from case.show("re-cut", changed=len(changed))
    yield from case.show("nothing", changed=0)


def readers_table(results: Sequence[ReaderResult | PriceResult]) -> str:
    """What each reader found, then what showing cost."""
    return "\n".join(map(_line, results))


def _line(result: ReaderResult | PriceResult) -> str:
    if isinstance(result, ReaderResult):
        told = "" if result.is_good_enough else f"  NOT THE {result.wanted:,} ROWS"
        what = f"{result.where}, {result.revision}, {result.reader}"
        return f"{what:<40}  {result.rows:>7,} rows  {result.seconds:6.2f} s{told}"
    counts = sorted(result.operations.items())
    what = f"{result.where}, {result.what} of {result.changed:,} of {result.shards:,} shards"
    told = ", ".join(f"{name} {count:,}" for name, count in counts)
    return f"{what}: {result.seconds:.2f} s: {told}"


def _copy_file(here: RunStore, there: RunStore, path: str) -> None:
    there.put_file(Path(here.absolute(path)), path)


def _where(store: RunStore) -> str:
    return "disk" if store.is_local else "S3"
