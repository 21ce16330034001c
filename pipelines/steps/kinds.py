"""The table of steps: what each of them is, said once, for everything that goes over steps."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa

from pipelines.config import Config
from pipelines.rows import ledger
from pipelines.run.committed import Committed
from pipelines.run.store import RunStore
from pipelines.steps.rewrite import (
    ShardTakedown,
    rewrite_download,
    rewrite_latents,
    rewrite_ledger,
    rewrite_scores,
)
from pipelines.steps.step import Resources, ShardStep

Holds = Literal["kept", "rows_in", "dropped", "some"]
"""How many rows a folder's file has, as its shard's manifest counts them; `some` is not told."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """One of the folders that a step writes, a file a shard."""

    path: str
    holds: Holds
    schema: pa.Schema | None = None
    """Of tables: the first columns, of runs made before schemas were kept in the run."""


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What a run gives to a step that its row of the table builds.

    Attributes:
        options: The step's section of the configuration, of its row's `config`.
        fingerprint: Of the step.
        options_digest: `StepIdentity.options_digest`.
        images: The step that made the run's images.
        committed: Each step before it, by name.
        torch_threads: For workers with models.
    """

    store: RunStore
    options: Any
    fingerprint: str
    options_digest: str
    images: Committed
    committed: Mapping[str, Committed]
    torch_threads: int
    resources: Resources


@dataclass(frozen=True, kw_only=True)
class StepKind:
    """One row of the table.

    The workflows build the five steps below themselves; a further one has `config` and `build`,
    runs where the configuration has its section under `steps:`, and has the plan's shards.
    """

    name: str
    folders: Sequence[Folder]
    reasons: frozenset[str]
    """What it may drop a row for."""
    parents: Sequence[str] = ()
    """The steps whose results it reads, where the run has them, in order."""
    makes_images: bool = False
    """Whether it is a run's first step, whose facts every later one reads."""
    is_recut: bool = False
    """Whether its options may change in a run that is there, as a new revision."""
    taken_over: Literal["amendments", "inputs"] | None = None
    """How a shard of an earlier revision is taken over: as the run's amendments say, by what the
    shard was made from (`Manifest.inputs`), or never."""
    rewrite: Callable[[ShardTakedown], None] | None = None
    """Takes rows out of a shard; None where a takedown has nothing to do."""
    is_grouped: bool = False
    """Whether a shard of it holds the rows of several of the plan's."""
    loads_models: bool = True
    """Whether its workers want the GPUs."""
    config: type[Config] | None = None
    """Of its section under `steps:`; every option of it decides the result."""
    build: Callable[[StepContext], ShardStep] | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The folders by name."""
        return tuple(folder.path for folder in self.folders)

    @property
    def later(self) -> frozenset[str]:
        """The steps that are made from its results, and those made from theirs."""
        found = {self.name}
        for kind in STEP_KINDS.values():  # in order, so that one pass finds all
            if found.intersection(kind.parents):
                found.add(kind.name)
        return frozenset(found - {self.name})


LATENTS_FOLDER: Final = "facts/latents"
"""Where generate keeps the latents of its images, until encode takes the kept ones over."""
_QUARANTINED: Final = ledger.ENGINE_REASONS
_ORIGINS: Final = ("download", "generate")

STEP_KINDS: Final[dict[str, StepKind]] = {
    kind.name: kind
    for kind in (
        StepKind(
            name="download",
            folders=(
                Folder(path="images", holds="kept"),
                Folder(path="facts/download", holds="rows_in", schema=ledger.DOWNLOAD_FACTS),
            ),
            reasons=frozenset(
                (
                    *(*ledger.PLAN_REASONS, *ledger.RULE_REASONS, *ledger.FETCH_REASONS),
                    *(*ledger.DECODE_REASONS, *ledger.TAKEDOWN_REASONS, *_QUARANTINED),
                )
            ),
            makes_images=True,
            loads_models=False,
            taken_over="amendments",
            rewrite=rewrite_download,
        ),
        StepKind(
            name="generate",
            folders=(
                Folder(path="images", holds="kept"),
                Folder(path="facts/generate", holds="rows_in", schema=ledger.GENERATE_FACTS),
                Folder(path="metadata", holds="kept"),
                Folder(path=LATENTS_FOLDER, holds="some"),  # those of one size
            ),
            reasons=frozenset(
                (
                    *(*ledger.PLAN_REASONS, *ledger.PROMPT_REASONS),
                    *(*ledger.GENERATE_REASONS, *_QUARANTINED),
                )
            ),
            makes_images=True,
        ),
        StepKind(
            name="score",
            folders=(
                Folder(path="facts/score", holds="rows_in", schema=ledger.SCORE_FACTS),
                Folder(path="facts/score/rejects", holds="dropped", schema=ledger.REJECTS),
            ),
            reasons=frozenset((*ledger.SCORE_REASONS, *_QUARANTINED)),
            parents=_ORIGINS,
            taken_over="inputs",
            rewrite=rewrite_scores,
        ),
        StepKind(
            name="select",
            folders=(Folder(path="ledger", holds="rows_in", schema=ledger.LEDGER),),
            reasons=ledger.REASONS - set(ledger.ENCODE_REASONS) | {ledger.ROW_FAILED},
            parents=(*_ORIGINS, "score"),
            is_recut=True,
            rewrite=rewrite_ledger,
        ),
        StepKind(
            name="encode",
            folders=(
                Folder(path="latents", holds="kept"),
                Folder(path="latents/rejects", holds="dropped", schema=ledger.REJECTS),
            ),
            reasons=frozenset((*ledger.ENCODE_REASONS, *_QUARANTINED)),
            parents=(*_ORIGINS, "select"),
            is_grouped=True,
            is_recut=True,
            taken_over="inputs",
            rewrite=rewrite_latents,
        ),
    )
}
"""Every step, each after those that it reads."""


def kinds_of(origin: str) -> list[StepKind]:
    """The steps of a run whose images `origin` makes, in order."""
    kinds = STEP_KINDS.values()
    return [kind for kind in kinds if not kind.makes_images or kind.name == origin]


def origin_of(steps: Iterable[str]) -> str | None:
    """Which of the named steps makes the run's images; None where none of them does."""
    return next((name for name in steps if name in _ORIGINS), None)


def recut_kinds() -> frozenset[str]:
    """The steps that can be asked for by name with other options."""
    return frozenset(kind.name for kind in STEP_KINDS.values() if kind.is_recut)


def every_folder() -> list[str]:
    """Everywhere in a run where committed files lie."""
    return list(dict.fromkeys(path for kind in STEP_KINDS.values() for path in kind.paths))


def further_kinds() -> dict[str, StepKind]:
    """The steps that a configuration asks for under `steps:`."""
    return {name: kind for name, kind in STEP_KINDS.items() if kind.config is not None}
