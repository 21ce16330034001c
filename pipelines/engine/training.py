"""Run a training's workers: in this process, or on Ray Train."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import ray
import torch

from pipelines.engine import cluster
from pipelines.engine.chain import EngineError, ResourcesError
from pipelines.engine.progress import Progress
from pipelines.engine.sight import Sight, SightWriter
from pipelines.engine.stopping import stoppable
from pipelines.engine.training_config import TrainEngineConfig
from pipelines.engine.training_sight import ToldOnRay, TrainingTold
from pipelines.run.lease import Lease
from pipelines.run.sight import Tell
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from sd_core.errors import (
    EnvironmentFault,
    FoundryError,
    causes_of,
    is_environment,
)
from sd_core.faults import describe_fault, environment_told
from sd_core.redact import redact_text
from sd_core.redacted_output import redacted_output
from sd_core.say import Say
from sd_core.store_waits import bound_store_waits
from sd_core.training.task import Place


class TrainingJob(Protocol):
    """A training's configuration, as far as the engine reads it."""

    @property
    def engine(self) -> TrainEngineConfig: ...


class TrainWorker(Protocol):
    """Trains on one worker; a module's function, so that Ray can name it."""

    def __call__(
        self, config: Any, place: Place, *, fingerprint: str, say: Say, tell: Tell
    ) -> None: ...


@contextmanager
def open_training(
    store: RunStore, config: TrainingJob, worker: TrainWorker, *, say: Say
) -> Iterator[Callable[[str], None]]:
    """Take the output's lease; gives a function that trains, called with the fingerprint.

    Raises:
        EngineError: the output cannot be written, or the cluster cannot hold the workers.
        LeaseHeldError: another job is writing to this output.
    """
    with ExitStack() as stack:
        stack.enter_context(stoppable())
        stack.enter_context(cluster.writable(store))
        left = _half_written(store)  # before ours is, so that none of these is a living job's
        lease = stack.enter_context(Lease(store, say=say))
        sight = Sight(Progress(say=say))
        stack.enter_context(SightWriter(store, lease, sight.look))
        for path in left:
            path.unlink(missing_ok=True)
        if config.engine.runner == "local":
            yield lambda fingerprint: _train_here(config, worker, fingerprint, sight, say)
        else:
            yield lambda fingerprint: _train_on_ray(store, config, worker, fingerprint, sight, say)


def _half_written(store: RunStore) -> list[Path]:
    """What killed writers left in a local output; an object store shows nothing of it."""
    if not store.is_local:
        return []
    return [*store.half_written(), *Path(store.absolute("")).glob("probe-*")]


def _train_here(
    config: TrainingJob, worker: TrainWorker, fingerprint: str, sight: Sight, say: Say
) -> None:
    wanted = config.engine.use_gpu
    found = torch.cuda.is_available()
    if wanted is True and not found:
        raise ResourcesError("engine.use_gpu is true, and torch finds no GPU on this machine")
    device = torch.device("cuda" if found and wanted else "cpu")
    place = Place(rank=0, world_size=1, device=device)
    told = TrainingTold()
    told.begins(place.rank, os.uname().nodename)
    sight.training = told.look
    worker(config, place, fingerprint=fingerprint, say=say, tell=told.tell)


def _train_on_ray(
    store: RunStore,
    config: TrainingJob,
    worker: TrainWorker,
    fingerprint: str,
    sight: Sight,
    say: Say,
) -> None:
    engine, trouble = config.engine, sight.on_trouble(say)
    with cluster.connected(num_cpus=engine.num_workers * engine.cpus_per_worker):
        use_gpu = _check_cluster(config)
        cluster.probe_storage(store, say=say)
        told = ToldOnRay()
        for left in range(engine.max_failures, -1, -1):
            with told.seen(sight):
                failure = _fit(config, worker, fingerprint, told, use_gpu=use_gpu)
            if failure is None:
                return
            if not left:
                raise EngineError(f"the workers died too often; the last time: {failure}")
            trouble(f"the workers died; starting them again, {left} more time(s): {failure}")


def _fit(
    config: TrainingJob, worker: TrainWorker, fingerprint: str, told: ToldOnRay, *, use_gpu: bool
) -> str | None:
    """One try; gives what killed the workers, None where they finished.

    Raises:
        FoundryError: as a worker raised it; starting the workers again would not help.
        EnvironmentFault: also of what a worker met on its disks and stores.
    """
    from ray.train import RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer

    engine = config.engine
    resources: dict[str, float] = {"CPU": engine.cpus_per_worker}
    with spool_folder() as scratch:
        trainer: Any = TorchTrainer(
            _worker,
            train_loop_config={
                "config": config,
                "worker": worker,
                "fingerprint": fingerprint,
                "told": told,
            },
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=engine.num_workers,
                use_gpu=use_gpu,
                resources_per_worker={**resources, "GPU": 1} if use_gpu else resources,
            ),
            # Our own checkpoints go to the output; Ray's records of this try are not kept.
            run_config=RunConfig(name="training", storage_path=str(scratch)),
        )
        # Ctrl-C is ours: Ray's own handler would end the run and say that all is well.
        trainer._register_sigint_handler = lambda controller: None
        try:
            trainer.fit()
        except WorkerGroupError as error:
            for failure in error.worker_failures.values():
                cause = _cause(failure)
                if cause is not None:
                    raise cause from None
            return redact_text(str(error)).strip().splitlines()[-1]
    return None


def _cause(failure: BaseException | None) -> Exception | None:
    """The failure of a training inside what Ray wrapped it in."""
    for each in () if failure is None else causes_of(failure):
        if isinstance(each, FoundryError):
            return each
        if isinstance(each, Exception) and is_environment(each):
            return EnvironmentFault(describe_fault(each))
    return None


def _worker(settings: dict[str, Any]) -> None:
    """Runs in a worker of Ray Train, with its process group set up."""
    from ray.train import get_context
    from ray.train.torch import get_device

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    context = get_context()
    place = Place(
        rank=context.get_world_rank(), world_size=context.get_world_size(), device=get_device()
    )
    started = time.monotonic()

    def say(line: str) -> None:
        # Not print(), which Ray Train replaces by one that also logs, so that a line shows twice.
        sys.stdout.write(f"[{time.monotonic() - started:7.1f} s] {line}\n")
        sys.stdout.flush()

    worker: TrainWorker = settings["worker"]
    told: ToldOnRay = settings["told"]
    told.begins(place.rank)
    bound_store_waits()
    with redacted_output(), environment_told():
        worker(
            settings["config"],
            place,
            fingerprint=settings["fingerprint"],
            say=say,
            tell=told.tell,
        )


def _check_cluster(config: TrainingJob) -> bool:
    """Whether workers get GPUs; raises `ResourcesError` where the cluster cannot hold them."""
    engine, has = config.engine, ray.cluster_resources()
    gpus, cpus = int(has.get("GPU", 0)), has.get("CPU", 0)
    use_gpu = gpus > 0 if engine.use_gpu == "auto" else bool(engine.use_gpu)
    if use_gpu and gpus < engine.num_workers:
        raise ResourcesError(
            f"engine.num_workers asks for {engine.num_workers} GPU(s), and the cluster has {gpus}; "
            "lower it, or set engine.use_gpu to false"
        )
    needed = engine.num_workers * engine.cpus_per_worker
    if cpus < needed:
        raise ResourcesError(
            f"the cluster has {cpus:g} CPU, and {engine.num_workers} worker(s) of "
            f"engine.cpus_per_worker {engine.cpus_per_worker} need {needed}; lower one of them"
        )
    return use_gpu


os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
