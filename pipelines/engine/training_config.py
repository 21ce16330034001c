"""Where a training's workers run."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.config import Config


class TrainEngineConfig(Config):
    """Where the workers run; none but `torch_threads` changes a result beyond rounding."""

    runner: Literal["ray", "local"] = "ray"
    """`local` trains in this process, without Ray."""
    num_workers: int = Field(default=1, ge=1, le=10_000)
    """Processes that train together; they share each batch."""
    use_gpu: Literal["auto"] | bool = "auto"
    """A GPU for each worker; `auto` where the cluster has any."""
    cpus_per_worker: int = Field(default=1, ge=1, le=1024)
    """Logical CPUs that Ray sets aside for each worker. Unit: CPUs."""
    torch_threads: int | None = Field(default=None, ge=1, le=256)
    """Threads of a worker on a CPU; null leaves torch's own choice."""
    max_failures: int = Field(default=3, ge=0)
    """How often workers that die are started again, from the last checkpoint. Unit: times."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.runner == "local" and self.num_workers > 1:
            raise ValueError("runner local has one worker; set runner to ray for more")
        return self
