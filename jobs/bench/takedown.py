"""Taking rows out of a made run of many small shards: what it costs where there is little to do."""

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pipelines.plan import Plan, PlanConfig, make_plan, read_rows
from pipelines.revisions.takedown import take_down
from pipelines.rows.ledger import DOWNLOAD_FACTS, LEDGER, SCORE_FACTS
from pipelines.rules.tombstones import tombstones_of
from pipelines.run.cache_files import publish_cache, record_cache
from pipelines.run.committed import Committed
from pipelines.run.manifest import SpooledFile, commit_shard
from pipelines.run.on_threads import in_order
from pipelines.run.record import StepIdentity, complete_step
from pipelines.run.recorded_options import check_or_record
from pipelines.run.store import RunStore
from pipelines.run.tables import write_table
from pipelines.sources import Source, SourceConfig
from pipelines.steps.kinds import STEP_KINDS
from sd_core.cache.samples import EmptyCaption, LatentSample
from sd_core.cache.shards import open_shard_writer
from sd_core.cache.spec import AutoencoderIdentity, CacheIdentity, CacheSpec, TextEncoderIdentity
from sd_core.say import Say
from sd_core.tar_members import SampleTarWriter

_STEPS: Final = ("download", "score", "select", "encode")
_TOKENS, _DIMS, _SIDE_PX = 7, 8, 64
_IMAGE_BYTES = 2_000
_SPEC = CacheSpec(
    identity=CacheIdentity(
        autoencoder=AutoencoderIdentity(
            kind="kl",
            weights_sha256="0" * 64,
            scaling_factor=1.0,
            shift_factor=0.0,
            latent_channels=4,
            downsampling=8,
        ),
        text_encoder=TextEncoderIdentity(
            weights_sha256="0" * 64,
            tokenizer_sha256="0" * 64,
            token_length=_TOKENS,
            embed_dim=_DIMS,
            pad_token_id=0,
        ),
    ),
    form="moments",
    dtype="float16",
    format="webdataset",
    resolution_px=_SIDE_PX,
    prompt_embeds=True,
)


@dataclass(frozen=True, kw_only=True)
class TakedownBench:
    """How large the run is, and how many URLs are taken down, each in a shard of its own."""

    shards: int
    rows_per_shard: int
    urls: int


@dataclass(frozen=True, kw_only=True)
class TakedownResult:
    """What it took; `untouched_seconds` where the list matches nothing."""

    shards: int
    rows: int
    rows_taken_down: int
    shards_touched: int
    seconds: float
    untouched_seconds: float


def measure_takedown(bench: TakedownBench, *, say: Say) -> TakedownResult:
    """Make a run of four steps, take URLs down, then one that is nowhere."""
    with tempfile.TemporaryDirectory(prefix="bench-takedown-") as folder:
        store, urls = _make_run(Path(folder), bench)
        say(f"{len(urls):,} rows in {bench.shards:,} shards are made")
        chosen = urls[:: max(1, len(urls) // bench.urls)][: bench.urls]
        begin = time.perf_counter()
        done = take_down(store, tombstones_of(urls=chosen), say=say)
        seconds = time.perf_counter() - begin
        say(f"{done.num_rows:,} rows taken down in {seconds:.1f} s")
        begin = time.perf_counter()
        take_down(store, tombstones_of(urls=["https://nowhere.example/"]), say=say)
        return TakedownResult(
            shards=bench.shards,
            rows=len(urls),
            rows_taken_down=done.num_rows,
            shards_touched=done.num_shards,
            seconds=seconds,
            untouched_seconds=time.perf_counter() - begin,
        )


def takedown_table(result: TakedownResult) -> str:
    """One line."""
    return (
        f"{result.shards:,} shards of {result.rows // result.shards} rows, four steps: "
        f"{result.rows_taken_down:,} rows in {result.shards_touched:,} shards taken down in "
        f"{result.seconds:.1f} s; a list that matches nothing {result.untouched_seconds:.1f} s"
    )


def _make_run(folder: Path, bench: TakedownBench) -> tuple[RunStore, list[str]]:
    store, path = RunStore(str(folder / "run")), folder / "list.csv"
    count = bench.shards * bench.rows_per_shard
    urls = [f"https://host-{n % 997}.example/{n}.jpg" for n in range(count)]
    captions = [f"picture {n}" for n in range(count)]
    pa.csv.write_csv(pa.table({"url": urls, "caption": captions}), path)
    source = Source(SourceConfig(path=str(path)))
    plan = make_plan(source, PlanConfig(rows_per_shard=bench.rows_per_shard), store=store)
    steps: dict[str, StepIdentity] = {}
    for name in _STEPS:
        parents = [
            steps[parent].fingerprint for parent in STEP_KINDS[name].parents if parent in steps
        ]
        steps[name] = StepIdentity(step=name, options={}, parents=tuple(parents))
    made = {name: Committed(store, name, step.fingerprint) for name, step in steps.items()}
    ids, embeds = np.zeros(_TOKENS, np.int32), np.zeros((_TOKENS, _DIMS), np.float32)
    empty = EmptyCaption(input_ids=ids, prompt_embeds=embeds, pooled_prompt_embeds=embeds[0])
    record_cache(made["encode"], spec=_SPEC, empty_caption=empty)
    for _ in in_order(_shard_maker(made, plan, source), range(bench.shards)):
        pass
    check_or_record(store, steps.values(), job={"job": "curate", "config": {}})
    for name, step in steps.items():
        complete_step(
            store,
            step,
            num_shards=bench.shards,
            folders=STEP_KINDS[name].paths,
            later=(),
            publish=lambda: publish_cache(made["encode"]),
        )
    return store, urls


def _shard_maker(made: dict[str, Committed], plan: Plan, source: Source) -> Callable[[int], None]:
    def make(shard_id: int) -> None:
        rows = read_rows(plan, made["download"].store, source, shard_id)
        keys: list[str] = rows["key"].to_pylist()
        facts = _facts(rows, shard_id)
        with tempfile.TemporaryDirectory(prefix="shard-") as name:
            scratch = Path(name)
            tar, latents = scratch / "images.tar", scratch / "latents.tar"
            with SampleTarWriter(tar) as writer:
                for key in keys:
                    writer.write(key, {"jpg": key.encode() * (_IMAGE_BYTES // 16)})
            with open_shard_writer(latents, _SPEC) as cache:
                for key in keys:
                    cache.write(_sample(key))
            images = SpooledFile(folder="images", path=tar, suffix=".tar", num_rows=len(keys))
            ledger = _as(facts.append_column("kept", pa.array([True] * len(keys))), LEDGER)
            _commit(made["download"], shard_id, [images, _table(facts, scratch, "facts/download")])
            _commit(
                made["score"], shard_id, [_table(_as(facts, SCORE_FACTS), scratch, "facts/score")]
            )
            _commit(made["select"], shard_id, [_table(ledger, scratch, "ledger")])
            _commit(made["encode"], shard_id, [replace(images, folder="latents", path=latents)])

    return make


def _facts(rows: pa.Table, shard_id: int) -> pa.Table:
    digests = [hashlib.sha256(url.encode()).hexdigest() for url in rows["url"].to_pylist()]
    count = rows.num_rows
    side = pa.array(np.full(count, _SIDE_PX, np.int32))
    known = {
        "shard_id": pa.array(np.full(count, shard_id, np.int32)),
        "row": rows["row"],
        "key": rows["key"],
        "url": rows["url"],
        "caption": rows["caption"],
        "status": pa.array(["success"] * count),
        "width": side,
        "height": side,
        "sha256": pa.array(digests),
        "final_url": rows["url"],
    }
    return _as(pa.table(known), DOWNLOAD_FACTS)


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema, null where the table has none."""
    arrays = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _sample(key: str) -> LatentSample:
    return LatentSample(
        key=key,
        raw_latents=np.zeros(_SPEC.latents_shape, np.float16),
        input_ids=np.zeros(_TOKENS, np.int32),
        prompt_embeds=np.zeros(_SPEC.embeds_shape, np.float16),
        caption=f"picture {key}",
    )


def _table(table: pa.Table, scratch: Path, folder: str) -> SpooledFile:
    path = scratch / f"{folder.replace('/', '-')}.parquet"
    write_table(table, path)
    return SpooledFile(folder=folder, path=path, suffix=".parquet", num_rows=table.num_rows)


def _commit(made: Committed, shard_id: int, files: list[SpooledFile]) -> None:
    count = files[0].num_rows
    commit_shard(
        made.store,
        step=made.step,
        fingerprint=made.fingerprint,
        shard_id=shard_id,
        files=files,
        rows_in=count,
        kept=count,
        dropped={},
    )
