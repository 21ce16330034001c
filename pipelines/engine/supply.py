"""What a cluster has, and how many workers of a step it is to hold."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from pipelines.steps.step import Resources

_CPUS_BESIDE_DRIVER = 4
"""A node with so many leaves one of them to the driver that runs on it."""
Places = Mapping[str | None, int]
"""How many workers on which node; None: wherever there is room."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A living node of the cluster, as far as it matters here."""

    id: str
    host: str
    cpus: float
    gpus: float
    has_driver: bool = False


def living_nodes() -> list[Node]:
    """The cluster's nodes, now."""
    here = ray.get_runtime_context().get_node_id()
    return [
        Node(
            id=node["NodeID"],
            host=node["NodeManagerHostname"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            has_driver=node["NodeID"] == here,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def able_nodes(need: Resources, nodes: Iterable[Node]) -> set[str]:
    """Ids of those that can hold a worker."""
    return {node.id for node in nodes if node.cpus >= need.num_cpus and node.gpus >= need.num_gpus}


def places_for(
    need: Resources, beside: Sequence[Resources], nodes: Sequence[Node], *, avoid: Collection[str]
) -> Places:
    """Where a pool's workers are to be.

    Args:
        need: Of the pool; one without a number gets what there is.
        beside: Of the pools beside it; room is left for theirs.
        nodes: The living ones.
        avoid: Ids of nodes that are left alone.
    """
    if need.num_workers is not None:
        return {None: need.num_workers}
    nodes = [node for node in nodes if node.id not in avoid]
    if need.num_gpus:
        return {None: max(need.min_workers, int(sum(node.gpus for node in nodes) / need.num_gpus))}
    free = {node.id: int(node.cpus - (_left_to_driver(node))) for node in nodes}
    for node in nodes:
        per_gpu = max(
            (other.num_cpus / other.num_gpus for other in beside if other.num_gpus), default=0
        )
        free[node.id] -= int(node.gpus * per_gpu)
    for other in beside:
        if not other.num_gpus:
            for _ in range(other.num_workers or 0):
                most = max(free, key=lambda node: free[node], default=None)
                if most is not None:
                    free[most] -= int(other.num_cpus)
    places: Counter[str | None] = Counter(
        {node: count for node, count in free.items() if count > 0}
    )
    return places or {None: need.min_workers}


def _left_to_driver(node: Node) -> int:
    return int(node.has_driver and node.cpus >= _CPUS_BESIDE_DRIVER)


def describe_supply(nodes: Sequence[Node]) -> str:
    """For a message: what the cluster has, and what of it is free."""
    free: dict[str, Any] = ray.available_resources()
    told = [
        f"{sum(getattr(node, f'{name.lower()}s') for node in nodes):g} {name} "
        f"({free.get(name, 0):g} free)"
        for name in ("GPU", "CPU")
    ]
    return f"the cluster has {' and '.join(told)} on {len(nodes)} node(s)"


def other_jobs(namespace: str) -> list[str]:
    """Names of other jobs of ours on the cluster, by the names of their workers."""
    named = ray.util.list_named_actors(all_namespaces=True)
    jobs = Counter(
        each["name"].partition(" worker ")[0]
        for each in named
        if each["namespace"] != namespace and " worker " in each["name"]
    )
    return [f"{job} ({count} workers)" for job, count in sorted(jobs.items())]
