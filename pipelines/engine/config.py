"""How many workers run a job, and how often a shard is tried."""

from typing import Literal

from pydantic import Field

from pipelines.config import Config


class EngineConfig(Config):
    """The engine's options; none but `torch_threads` changes a result."""

    runner: Literal["ray", "local"] = "ray"
    """`local` runs the same steps one after another in this process, without Ray."""
    download_workers: int = Field(default=2, ge=1, le=100_000)
    """Processes that fetch and decode; each takes one logical CPU."""
    gpus: Literal["auto"] | int = "auto"
    """Model workers pinned to a GPU each; `auto` takes every GPU of the cluster, 0 none. Unit:
    GPUs."""
    cpu_model_workers: int = Field(default=1, ge=1, le=10_000)
    """Model workers where there is no GPU; each takes one logical CPU."""
    torch_threads: int = Field(default=1, ge=1, le=256)
    """Threads of a model worker on a CPU; they change the last bit, so a run keeps its number."""
    shards_ahead: int = Field(default=4, ge=1, le=10_000)
    """Shards that may be downloaded and not yet scored, for each model worker. Unit: shards."""
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
