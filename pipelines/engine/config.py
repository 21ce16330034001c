"""How many workers run a job, and how often a shard is tried."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.config import Config


class GpuRange(Config):
    """So many GPUs at least, and at most."""

    min: int = Field(default=1, ge=1, le=100_000)
    """The job ends with 75 where there are fewer after `wait_for_resources_s`. Unit: GPUs."""
    max: int = Field(ge=1, le=100_000)
    """So many workers ask for one; those that wait are the demand that an autoscaler sees. Unit:
    GPUs."""

    @model_validator(mode="after")
    def _check(self) -> "GpuRange":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class EngineConfig(Config):
    """The engine's options; none but `torch_threads` changes a result."""

    runner: Literal["ray", "local"] = "ray"
    """`local` runs the same steps one after another in this process, without Ray."""
    download_workers: Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)] = "auto"
    """Processes that fetch and decode; each takes one logical CPU. `auto` takes those that model
    workers and the driver leave, also of nodes that come later."""
    gpus: Literal["auto"] | Annotated[int, Field(ge=0, le=100_000)] | GpuRange = "auto"
    """Model workers pinned to a GPU each; `auto` takes every GPU there is or comes, 0 none. Unit:
    GPUs."""
    cpu_fallback: bool | None = None
    """Whether models run on the CPU where there is no GPU and `gpus` is not 0; null: yes on this
    machine and on a Ray that the job starts itself, no on a cluster that RAY_ADDRESS names."""
    wait_for_resources_s: float | None = Field(default=None, ge=0, le=604_800)
    """How long the job waits for nodes and for places that others hold, before it ends with 75;
    null: 600 on a cluster that RAY_ADDRESS names, 0 on a Ray that the job starts itself."""
    heartbeat_timeout_s: float = Field(default=120.0, ge=1, le=86_400)
    """A worker that gives no sign of life for so long is replaced."""
    cpu_model_workers: int = Field(default=1, ge=1, le=10_000)
    """Model workers where there is no GPU; each takes one logical CPU."""
    torch_threads: int = Field(default=1, ge=1, le=256)
    """Threads of a model worker on a CPU; they change the last bit, so a run keeps its number."""
    shards_ahead: int = Field(default=4, ge=1, le=10_000)
    """Shards that may be finished and not yet taken by the next step, for each of its workers.
    Unit: shards."""
    shard_tries: int = Field(default=3, ge=1, le=100)
    """Attempts at a shard that raises an error of its own, before it is quarantined."""
    infrastructure_tries: int = Field(default=20, ge=1, le=1000)
    """Attempts at a shard whose worker dies (killed, out of memory); on a node that is lost or
    preempted it costs none."""
    patience_s: float = Field(default=30.0, ge=0, le=86_400)
    """How long a piece of work is tried again that a disk, a store or credentials fail, before
    the job ends with 75."""
    max_quarantined_shards: int = Field(default=0, ge=0)
    """Later steps go on with at most this many quarantined shards."""
