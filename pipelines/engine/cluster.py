"""Connect to Ray and make sure, within seconds, that the cluster can hold the job."""

import logging
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.engine.chain import ResourcesError
from pipelines.engine.config import EngineConfig, GpuRange
from pipelines.engine.stopping import Stopped, handle_signals
from pipelines.run.store import RunStore, StorageError
from pipelines.steps.step import Resources
from sd_core.errors import EnvironmentFault, has_no_bucket, is_environment
from sd_core.faults import describe_fault
from sd_core.made_folders import made_folder
from sd_core.say import Say, duration

_LOCAL_OBJECT_STORE_BYTES = 200_000_000  # tasks exchange shard ids, never image bytes
_PROBE_TIMEOUT_S = 20.0
_NAMED_WAIT_S = 600.0
_FEWEST_DOWNLOADS = 2
"""Of workers that mostly wait for other people's servers, on a small machine."""
_NO_TOKEN = (
    "the cluster asks for no token: whoever reaches its ports can run programs on its nodes and "
    "read what they may read; start Ray with RAY_AUTH_MODE=token (configs/deploy/README.md)"
)


@contextmanager
def connected(*, num_cpus: int) -> Iterator[None]:
    """A Ray cluster: the one a submitted job or RAY_ADDRESS names, else a small local one.

    Args:
        num_cpus: Logical CPUs of a local one, or the machine's cores where those are more.
    """
    if ray.is_initialized():
        yield
        return
    try:
        _connect(num_cpus)
    except SystemExit as error:
        if isinstance(error, Stopped):
            raise
        raise Stopped(signal.SIGTERM) from error  # Ray's own handler, while it connects
    handle_signals()  # Ray took SIGTERM for itself
    try:
        yield
    finally:
        ray.shutdown()


def _connect(num_cpus: int) -> None:
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True, logging_level=logging.ERROR)
    else:
        os.environ.setdefault("RAY_TMPDIR", tempfile.gettempdir())
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, num_cpus),
            object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.ERROR,
        )


def is_named() -> bool:
    """Whether the cluster is one that a submitted job or RAY_ADDRESS names, not the job's own."""
    return bool(os.environ.get("RAY_ADDRESS"))


def waits_for_resources_s(config: EngineConfig) -> float:
    """How long the job waits for nodes and places; 0 where it is refused at once."""
    if config.wait_for_resources_s is not None:
        return config.wait_for_resources_s
    return _NAMED_WAIT_S if is_named() else 0.0


def count_cpus(config: EngineConfig, downloads: bool) -> int:
    """Logical CPUs that a Ray of the job's own needs."""
    models, workers = config.cpu_model_workers, config.download_workers
    left = max(_FEWEST_DOWNLOADS, (os.cpu_count() or 1) - models)
    return models + downloads * (left if workers == "auto" else workers)


def model_resources(config: EngineConfig, *, check: Callable[[], None], say: Say) -> Resources:
    """What a worker with models takes, and how many of them there are to be.

    Raises:
        ResourcesError: more GPUs are asked for than there are, and the job does not wait.
    """
    on_cpu = Resources(num_workers=config.cpu_model_workers)
    if config.gpus == 0:
        return on_cpu
    may_use_cpu = not is_named() if config.cpu_fallback is None else config.cpu_fallback
    wait_s = waits_for_resources_s(config)
    least, most = gpu_range(config)
    if config.gpus == "auto" and may_use_cpu:
        if not _has_gpu(wait_s, check=check, say=say):
            say("models run on the CPU: the cluster has no GPU")
            return on_cpu
    elif not wait_s and least > (found := int(ray.cluster_resources().get("GPU", 0))):
        asked = f"asks for {least} GPU(s)" if config.gpus != "auto" else "is auto"
        raise ResourcesError(
            f"engine.gpus {asked}, and the cluster has {found}. Start Ray on machines with GPUs, "
            "or set engine.gpus to what there is, 0 or auto, or engine.wait_for_resources_s, "
            "where more will come."
        )
    return Resources(num_gpus=1.0, num_workers=most, min_workers=least, may_use_cpu=may_use_cpu)


def gpu_range(config: EngineConfig) -> tuple[int, int | None]:
    if isinstance(config.gpus, GpuRange):
        return config.gpus.min, config.gpus.max
    return (1, None) if config.gpus == "auto" else (config.gpus, config.gpus)


def _has_gpu(wait_s: float, *, check: Callable[[], None], say: Say) -> bool:
    """Whether the cluster has a GPU, within a time in which it is asked for one."""
    ends = time.monotonic() + wait_s
    asking = None
    try:
        while not ray.cluster_resources().get("GPU"):
            left_s = ends - time.monotonic()
            if left_s <= 0:
                return False
            if asking is None:  # an autoscaler sees it
                asking = _ask_for_gpu.remote()
                say(f"waits {duration(left_s)} for a GPU, before models run on the CPU")
            check()
            time.sleep(min(1.0, left_s))
        return True
    finally:
        if asking is not None:
            ray.cancel(asking)


@ray.remote(num_cpus=0, num_gpus=1, max_retries=0)
def _ask_for_gpu() -> None:
    pass


def check_resources(needs: Sequence[tuple[str, Resources]]) -> None:
    """Raise `ResourcesError` unless the cluster can hold all these pools at once."""
    has = ray.cluster_resources()
    counted = [(name, need, need.num_workers or need.min_workers) for name, need in needs]
    cpus = sum(need.num_cpus * workers for _, need, workers in counted)
    gpus = sum(need.num_gpus * workers for _, need, workers in counted)
    if cpus > has.get("CPU", 0) or gpus > has.get("GPU", 0):
        pools = ", ".join(
            f"{name} {workers} x ({need.num_cpus:g} CPU, {need.num_gpus:g} GPU)"
            for name, need, workers in counted
        )
        raise ResourcesError(
            f"the cluster has {has.get('CPU', 0):g} CPU and {has.get('GPU', 0):g} GPU, and the job "
            f"needs {cpus:g} CPU and {gpus:g} GPU at once: {pools}. Lower engine.download_workers "
            "or the model workers, or start Ray with more (ray start --num-cpus N: logical CPUs "
            "may exceed the cores)."
        )


def probe_storage(store: RunStore, *, say: Say) -> None:
    """Write a probe file into the run and have every node read it; warns of a named cluster that
    runs without a token.

    Raises:
        StorageError: a node does not see it.
    """
    name = f"probe-{uuid.uuid4().hex}"
    store.replace(name, name.encode())
    try:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        probes = {_probe_on(node["NodeID"], store, name): node for node in nodes}
        ready, late = ray.wait(list(probes), num_returns=len(probes), timeout=_PROBE_TIMEOUT_S)
        answers = [(probes[ref]["NodeManagerHostname"], *ray.get(ref)) for ref in ready]
        if is_named() and not all(has_token for _, _, has_token in answers):
            say(_NO_TOKEN)
        bad = [host for host, sees, _ in answers if not sees]
        if bad:
            raise StorageError(
                f"{store.root}: not the same storage on node(s) {', '.join(bad)}. "
                "Give a folder that every node mounts, or an object-store URL."
            )
        if late:
            names = ", ".join(probes[ref]["NodeManagerHostname"] for ref in late)
            say(f"node(s) {names} are busy and have not confirmed that they see {store.root}")
    finally:
        store.delete(name)


def _probe_on(node_id: str, store: RunStore, name: str) -> Any:
    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = _sees_probe.options(scheduling_strategy=where, name="probe storage")
    return task.remote(store, name)


@ray.remote(num_cpus=0, max_retries=0)
def _sees_probe(store: RunStore, name: str) -> tuple[bool, bool]:
    """Whether a node sees the file, and whether its Ray asks for a token."""
    has_token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    try:
        return store.read_bytes(name) == name.encode(), has_token
    except OSError:
        return False, has_token


@contextmanager
def writable(store: RunStore) -> Iterator[None]:
    """Make sure that the output can be written, by a small file that is removed again. A job that
    ends before it has written anything leaves no folder that was not there.

    Raises:
        EnvironmentFault: the disk is full, broken or mounted read-only, the store cannot be
            reached or refuses the credentials.
        StorageError: it is another folder or bucket that is needed.
    """
    with ExitStack() as stack:
        _probe_output(store, stack)
        yield


def _probe_output(store: RunStore, stack: ExitStack) -> None:
    try:
        if store.is_local:
            stack.enter_context(made_folder(Path(store.absolute(""))))
        store.replace(".probe", b"")
        store.delete(".probe")
    except Exception as error:  # the client of each store raises its own
        if has_no_bucket(error):
            raise StorageError(
                f"output {store.root}: there is no such bucket; make it, or give another"
            ) from None
        message = f"output {store.root}: cannot be written: {describe_fault(error)}"
        if is_environment(error):
            raise EnvironmentFault(message) from error
        if isinstance(error, OSError):
            raise StorageError(f"{message}; give a folder that this user may write") from error
        raise
