"""What a revision costs in operations on storage, counted by name."""

import json
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest
import s3fs

from jobs.bench.counting import counted_operations
from jobs.bench.made_run import MadeRun
from jobs.bench.s3_emulator import S3Endpoint
from pipelines.plan import load_plan
from pipelines.report.card import write_card
from pipelines.revisions.adopt import adopt_shards
from pipelines.revisions.readers import show_revision
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest, create_manifest
from pipelines.run.store import RunStore
from sd_core.store_waits import bound_store_waits
from tests.contracts import cases

STEPS = ("download", "select", "publish", "encode")
CHANGED = 2


def price(store: RunStore, folder: Path, *, shards: int) -> Counter[str]:
    """Of what readers are shown and of the card, after a re-cut of two shards."""
    folder.mkdir()
    run = MadeRun(store=store, folder=folder, rows_per_shard=2, steps=STEPS)
    run.make(shards)
    show_revision(store)
    write_card(store)
    run.recut(load_plan(store), range(CHANGED))
    with counted_operations() as counts:
        show_revision(store)
        write_card(store)
    return counts


def test_what_readers_are_shown_costs_by_what_changed_and_a_constant(tmp_path: Path) -> None:
    few, many = (
        price(RunStore(f"{tmp_path}/{shards}/run"), tmp_path / f"{shards}", shards=shards)
        for shards in (5, 50)
    )
    assert few == many
    assert few["show"] == 3 * CHANGED  # a ledger, images and latents of each
    assert sum(few.values()) < 100


def test_on_a_store_too(tmp_path: Path, s3_endpoint: S3Endpoint) -> None:
    few, many = (
        price(
            RunStore(f"s3://{s3_endpoint.bucket}/price-{shards}", s3_endpoint.storage_options),
            tmp_path / f"{shards}",
            shards=shards,
        )
        for shards in (3, 12)
    )
    assert few == many
    assert few["s3 copy_object"] == CHANGED  # tables alone
    assert few["s3 put_object"] < 10


def requests(served: cases.ServedList, s3: S3Endpoint, folder: Path, *, rows_per_shard: int) -> int:
    """Of a whole first run, from the list to the card, in one process; without its lease, which
    beats by time."""
    list_path = folder / "list.parquet"
    pq.write_table(pq.read_table(served.path).drop_columns("licence"), list_path)
    output = f"s3://{s3.bucket}/first-{rows_per_shard}"
    config = cases.configuration(
        list_path,
        output,
        plan__rows_per_shard=rows_per_shard,
        storage_options=json.dumps(s3.storage_options),
    )
    asked: list[str] = []
    request = s3fs.S3FileSystem._call_s3

    async def counted(store: Any, method: str, *arguments: Any, **options: Any) -> Any:
        asked.append(str(options.get("Key")))
        return await request(store, method, *arguments, **options)

    with patch.object(s3fs.S3FileSystem, "_call_s3", counted):
        cases.run(config)
    return sum(not key.endswith("lease.json") for key in asked)


@pytest.mark.slow
def test_a_first_run_makes_at_most_twenty_requests_a_shard(
    served_list: cases.ServedList, s3_endpoint: S3Endpoint, tmp_path: Path
) -> None:
    bound_store_waits()  # as every command does
    few, many = (
        requests(served_list, s3_endpoint, tmp_path, rows_per_shard=rows) for rows in (11, 5)
    )
    assert cases.NUM_ROWS == 55
    assert (many - few) / (55 // 5 - 55 // 11) <= 20


@pytest.mark.parametrize("shards", [5, 40])
def test_a_shard_that_is_taken_over_costs_its_manifest_alone(tmp_path: Path, shards: int) -> None:
    store = RunStore(str(tmp_path))
    told = {"step": "publish", "files": (), "rows_in": 1, "kept": 1, "dropped": {}}
    for shard_id in range(shards):
        manifest = Manifest(fingerprint="before", shard_id=shard_id, inputs="same", **told)  # type: ignore[arg-type]
        create_manifest(store, manifest)
    with counted_operations() as counts:
        adopted = adopt_shards(
            Committed(store, "publish", "now"),
            shard_ids=range(shards),
            inputs_of=lambda shard_id: "same",
        )
    assert adopted == shards
    assert counts["read_bytes"] == counts["create_exclusive"] == shards
    assert counts["list_sizes"] == 3
