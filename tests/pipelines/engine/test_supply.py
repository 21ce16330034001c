"""Where workers are to be, by what nodes there are; which nodes are left alone."""

import pytest

from pipelines.engine import nodes as health
from pipelines.engine.nodes import NodeHealth
from pipelines.engine.supply import Node, places_for
from pipelines.steps.step import Resources

AUTO = Resources(num_workers=None)
GPUS = Resources(num_gpus=1.0, num_workers=None)


def node(name: str, *, cpus: float, gpus: float = 0, has_driver: bool = False) -> Node:
    return Node(id=name, host=name, cpus=cpus, gpus=gpus, has_driver=has_driver)


def test_downloads_take_the_cpus_that_model_workers_and_the_driver_leave() -> None:
    nodes = [
        node("head", cpus=8, has_driver=True),
        node("cpu", cpus=4),
        node("gpu", cpus=8, gpus=6),
    ]
    assert places_for(AUTO, [GPUS], nodes, avoid=()) == {"head": 7, "cpu": 4, "gpu": 2}
    on_cpu = Resources(num_workers=3)
    assert places_for(AUTO, [on_cpu], nodes, avoid=()) == {"head": 6, "cpu": 4, "gpu": 6}


def test_a_node_that_joins_or_is_left_alone_changes_the_places_and_one_is_always_asked_for() -> (
    None
):
    nodes = [node("a", cpus=2), node("b", cpus=2)]
    assert places_for(AUTO, [], nodes, avoid=()) == {"a": 2, "b": 2}
    assert places_for(AUTO, [], nodes, avoid={"a"}) == {"b": 2}
    assert places_for(AUTO, [], [node("head", cpus=0)], avoid=()) == {None: 1}
    assert places_for(AUTO, [GPUS], [node("gpu", cpus=2, gpus=2)], avoid=()) == {None: 1}


@pytest.mark.parametrize(
    ("need", "wanted"),
    [
        (GPUS, 5),
        (Resources(num_gpus=1.0, num_workers=3, min_workers=3), 3),
        (Resources(num_gpus=1.0, num_workers=64), 64),
        (Resources(num_workers=7), 7),
    ],
    ids=["auto", "a number", "a range", "on the CPU"],
)
def test_auto_takes_every_gpu_and_what_is_asked_for_beyond_is_the_demand(
    need: Resources, wanted: int
) -> None:
    nodes = [node("a", cpus=8, gpus=4), node("b", cpus=8, gpus=1)]
    assert places_for(need, [AUTO], nodes, avoid=()) == {None: wanted}


def test_auto_without_a_gpu_asks_for_one() -> None:
    assert places_for(GPUS, [], [node("a", cpus=8)], avoid=()) == {None: 1}


def test_only_a_node_on_which_all_fails_while_others_work_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(health.time, "monotonic", lambda: now[0])
    nodes = NodeHealth()

    def fail(*shards: int, after_s: float) -> int:
        now[0] += after_s
        return max(nodes.failed("score", "sick", shard) for shard in shards)

    def work(step: str, node: str) -> None:
        now[0] += 1
        nodes.succeeded(step, node)

    work("score", "other")
    assert not fail(*range(9), after_s=99), (
        "nothing was done elsewhere since: others may fail alike"
    )
    work("score", "sick")
    assert not fail(*range(9), after_s=1)
    work("score", "other")
    assert not fail(9, after_s=1), "all within a moment, as where a store says no once"
    assert fail(9, after_s=99) == 10
    work("score", "sick")
    assert not fail(*[1] * 99, after_s=1)
    work("score", "other")
    assert not fail(1, after_s=99), "one shard that kills its workers"
