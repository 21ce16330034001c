"""Prompts of every kind of list; the plan keeps them, and only ever grows."""

import json
from pathlib import Path

import pytest

from jobs.bench.s3_emulator import S3Endpoint
from pipelines.plan import PlanError
from pipelines.prompts import (
    PromptPlanConfig,
    PromptPlanner,
    PromptsConfig,
    expand_rows,
    load_prompt_plan,
    read_prompts,
)
from pipelines.run.store import RunStore


def plan(store: RunStore, path: Path | str, *, grow: bool = False, images_per_shard: int = 1000):
    said: list[str] = []
    growth = PromptPlanner(
        store,
        PromptsConfig(path=str(path)).source(),
        PromptPlanConfig(images_per_shard=images_per_shard),
        num_images=1,
        say=said.append,
    ).plan(grow=grow)
    return growth, said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prompts.csv", 'Prompt,seed,Category\na star,1,x\n"a, ring",,y\n'),
        ("prompts.tsv", "prompt\tseed\tCategory\na star\t1\tx\na, ring\t\ty\n"),
        (
            "prompts.jsonl",
            '{"prompt": "a star", "seed": 1, "Category": "x"}\n'
            '{"prompt": "a, ring", "Category": "y"}\n',
        ),
    ],
)
def test_lists_of_every_kind_come_to_the_same_prompts(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    store = RunStore(str(tmp_path / "run"))
    growth, _ = plan(store, tmp_path / name)
    rows = read_prompts(growth.plan, store, 0).to_pylist()
    assert [(row["prompt"], row["seed"], row["source_category"]) for row in rows] == [
        ("a star", 1, "x"),
        ("a, ring", None, "y"),
    ]


def test_text_is_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a star\n\nhttps://a.example/x.jpg is a prompt too\n")
    store = RunStore(str(tmp_path / "run"))
    growth, _ = plan(store, tmp_path / "prompts.txt")
    rows = read_prompts(growth.plan, store, 0).to_pylist()
    assert [row["prompt"] for row in rows] == ["a star", "https://a.example/x.jpg is a prompt too"]
    assert [row["reason"] for row in rows] == [None, None]


def test_shards_hold_whole_prompts_and_name_each_image(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"p{i}", "num_images": 3, "key": f"k{i}"}) for i in range(5)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    store = RunStore(str(tmp_path / "run"))
    growth, _ = plan(store, tmp_path / "prompts.jsonl", images_per_shard=5)
    assert growth.plan.shards["num_rows"].to_pylist() == [6, 6, 3]
    rows = expand_rows(read_prompts(growth.plan, store, 1), shard_id=1)
    assert rows["key"].to_pylist() == ["k2-0", "k2-1", "k2-2", "k3-0", "k3-1", "k3-2"]
    assert rows["row"].to_pylist() == list(range(6))


def test_growing_keeps_the_shards_and_counts_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    first = [{"prompt": f"p{i}"} for i in range(4)] + [{"prompt": ""}]
    path.write_text("\n".join(map(json.dumps, first)))
    store = RunStore(str(tmp_path / "run"))
    before, _ = plan(store, path, images_per_shard=2)
    more = [{"prompt": "new", "late": 1}, *first[::-1], {"prompt": "p0"}]
    path.write_text("\n".join(map(json.dumps, more)))
    with pytest.raises(PlanError, match=r"(?s)changed.*--grow"):
        plan(store, path)
    after, said = plan(store, path, grow=True, images_per_shard=2)
    assert (after.new_rows, after.known) == (1, 6)
    assert any("late is new in the list and is left out" in line for line in said)
    shards = after.plan.shards.slice(0, before.plan.num_shards)
    assert shards.to_pylist() == before.plan.shards.to_pylist()
    assert load_prompt_plan(store) == after.plan
    again, _ = plan(store, path)
    assert (again.new_rows, again.plan) == (0, after.plan)


def test_a_list_on_an_object_store_is_planned_into_one(s3_endpoint: S3Endpoint) -> None:
    store = RunStore(f"s3://{s3_endpoint.bucket}/generated")
    listed = RunStore(f"s3://{s3_endpoint.bucket}/lists", flat=True)
    listed.replace("prompts.csv", b"prompt\na star\na ring\n")
    growth, _ = plan(store, f"s3://{s3_endpoint.bucket}/lists/prompts.csv")
    assert growth.plan.num_prompts == 2
    assert read_prompts(growth.plan, store, 0)["prompt"].to_pylist() == ["a star", "a ring"]


def test_an_empty_list_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("prompt\n")
    with pytest.raises(PlanError, match="no prompts"):
        plan(RunStore(str(tmp_path / "run")), tmp_path / "prompts.csv")
