"""Connect to Ray and make sure, within seconds, that the cluster can hold the job."""

import logging
import os
import signal
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.engine.chain import ResourcesError
from pipelines.engine.config import EngineConfig
from pipelines.engine.stopping import Stopped, handle_signals
from pipelines.run.store import RunStore, StorageError
from pipelines.steps.step import Resources
from sd_core.errors import EnvironmentFault, has_no_bucket, is_environment
from sd_core.faults import describe_fault
from sd_core.made_folders import made_folder
from sd_core.say import Say

_LOCAL_OBJECT_STORE_BYTES = 200_000_000  # tasks exchange shard ids, never image bytes
_PROBE_TIMEOUT_S = 20.0
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


def count_model_workers(config: EngineConfig) -> tuple[int, float]:
    """How many model workers the cluster gets, and the GPUs of each (0.0: on the CPU).

    Raises:
        ResourcesError: more GPUs are asked for than there are.
    """
    found = int(ray.cluster_resources().get("GPU", 0))
    if config.gpus == "auto":
        return (found, 1.0) if found else (config.cpu_model_workers, 0.0)
    if config.gpus > found:
        raise ResourcesError(
            f"engine.gpus asks for {config.gpus} GPU(s), and the cluster has {found}. "
            "Start Ray on machines with GPUs, or set engine.gpus to what there is, 0 or auto."
        )
    return (config.gpus, 1.0) if config.gpus else (config.cpu_model_workers, 0.0)


def check_resources(needs: Sequence[tuple[str, Resources]]) -> None:
    """Raise `ResourcesError` unless the cluster can hold all these pools at once."""
    has = ray.cluster_resources()
    cpus = sum(need.num_cpus * need.num_workers for _, need in needs)
    gpus = sum(need.num_gpus * need.num_workers for _, need in needs)
    if cpus > has.get("CPU", 0) or gpus > has.get("GPU", 0):
        pools = ", ".join(
            f"{name} {need.num_workers} x ({need.num_cpus:g} CPU, {need.num_gpus:g} GPU)"
            for name, need in needs
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
        if os.environ.get("RAY_ADDRESS") and not all(has_token for _, _, has_token in answers):
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
    task = _sees_probe.options(scheduling_strategy=where)
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
