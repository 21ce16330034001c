"""What Ray's errors say of a worker's end."""

import ray
from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from pipelines.engine.shard_worker import WorkerFacts
from sd_core.errors import EnvironmentFault

INFRASTRUCTURE = (
    RayActorError,
    ActorUnschedulableError,
    ActorUnavailableError,
    WorkerCrashedError,
    OutOfMemoryError,
    NodeDiedError,
    ObjectLostError,
)


def is_infrastructure(error: BaseException) -> bool:
    """Whether a worker was lost, rather than that it raised."""
    return isinstance(error, INFRASTRUCTURE) or isinstance(
        getattr(error, "cause", None), INFRASTRUCTURE
    )


def is_unheard(error: BaseException) -> bool:
    """Whether a worker cannot be reached, and its node has not told that it ended."""
    causes = (error, getattr(error, "cause", None))
    return any(isinstance(each, ActorUnavailableError) for each in causes)


def is_of_the_node(error: BaseException, worker: WorkerFacts | None) -> bool:
    """Whether a worker was lost with its node, or to make room on it."""
    causes = (error, getattr(error, "cause", None))
    if any(isinstance(e, NodeDiedError) or getattr(e, "preempted", False) for e in causes):
        return True
    return worker is not None and not is_alive(worker.node)


def is_unplaced(error: BaseException) -> bool:
    """Whether a worker had no place because the node that it was asked for is gone."""
    return isinstance(error, ActorUnschedulableError)


def is_alive(node: str) -> bool:
    """Whether the cluster still has a node."""
    return node in living_ids()


def living_ids() -> set[str]:
    """Ids of the nodes that the cluster has."""
    return {each["NodeID"] for each in ray.nodes() if each["Alive"]}


def first_line(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def cause_of(error: RayTaskError) -> BaseException:
    """What the worker raised."""
    return error.cause if isinstance(error.cause, BaseException) else error


def cause_line(error: RayTaskError) -> str:
    """What the worker raised, in its own words."""
    cause = cause_of(error)
    named = isinstance(cause, EnvironmentFault)  # by `environment_told`
    return str(cause) if named else f"{type(cause).__name__}: {cause}"
