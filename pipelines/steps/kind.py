"""What a step is, as its row of the table says it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from pipelines.config import Config
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest
from pipelines.run.store import RunStore
from pipelines.steps.rewrite import ShardTakedown
from pipelines.steps.step import Resources, ShardStep

Holds = Literal["kept", "rows_in", "dropped", "some"]
"""How many rows a folder's file has, as its shard's manifest counts them; `some` is not told."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """One of the folders that a step writes, a file a shard."""

    path: str
    holds: Holds
    shown: str | None = None
    """The folder of the run in which readers find its current files; None: in none."""
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

    The workflows build five of the steps themselves; a further one has `config` and `build`,
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
    rewrite: Callable[[ShardTakedown], Manifest] | None = None
    """Takes rows out of a shard; None where a takedown has nothing to do."""
    is_grouped: bool = False
    """Whether a shard of it holds the rows of several of the plan's."""
    loads_models: bool = True
    """Whether its workers want the GPUs."""
    config: type[Config] | None = None
    """Of its section under `steps:`; every option of it decides the result."""
    build: Callable[[StepContext], ShardStep] | None = None
    inputs: Callable[[StepContext, int], str | None] | None = None
    """Of a further step: what a shard would be made from; None where that is not known yet."""
    is_same: Callable[[StepContext, Manifest, str], bool] | None = None
    """Of a further step: whether a shard was made from these inputs, where an earlier version told
    them otherwise."""
    is_default: bool = False
    """Of a further step: it is there unless its section is null, and whenever the last of its
    parents is asked for by name."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The folders by name."""
        return tuple(folder.path for folder in self.folders)
