"""A Ray of several raylets on this machine, as a cluster of as many nodes; named by RAY_ADDRESS."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ray.cluster_utils import Cluster

_OBJECT_STORE_BYTES = 80_000_000


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one raylet says it has."""

    cpus: int
    gpus: int = 0


@contextmanager
def raylets(nodes: Sequence[Node]) -> Iterator[Cluster]:
    """Run a cluster, the first node its head, while the `with` block runs."""
    project = str(Path(__file__).resolve().parents[2])
    found = filter(None, (project, os.environ.get("PYTHONPATH")))
    # A socket's path is limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="lf-", dir="/tmp", ignore_cleanup_errors=True) as tmp:
        os_environ = {"PYTHONPATH": os.pathsep.join(found), "RAY_TMPDIR": tmp}
        with patch.dict(os.environ, os_environ):
            cluster = Cluster(shutdown_at_exit=True)
            try:
                for node in nodes:
                    add(cluster, node)
                os.environ["RAY_ADDRESS"] = cluster.address
                yield cluster
            finally:
                cluster.shutdown()  # type: ignore[no-untyped-call]


def add(cluster: Cluster, node: Node) -> Any:
    """Add a node, in the main thread (Ray takes its signals), and wait until it is known."""
    return cluster.add_node(
        num_cpus=node.cpus,
        num_gpus=node.gpus,
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
    )
