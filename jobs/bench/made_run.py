"""A run of many small shards, made with the real writers: no picture, no model, any store."""

import hashlib
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pipelines.plan import Plan, PlanConfig, grow_plan, make_plan, read_rows
from pipelines.revisions.adopt import copy_records
from pipelines.revisions.begin import begin_growth, planned_before
from pipelines.rows.ledger import DOWNLOAD_FACTS, LEDGER, SCORE_FACTS
from pipelines.run.cache_files import publish_cache, record_cache
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest, SpooledFile, commit_shard, create_manifest
from pipelines.run.on_threads import do_all
from pipelines.run.record import StepIdentity, complete_step
from pipelines.run.recorded_options import check_or_record
from pipelines.run.store import RunStore
from pipelines.run.tables import write_table
from pipelines.sources import Source, SourceConfig
from pipelines.steps.kinds import STEP_KINDS, later_steps
from sd_core.cache.formats import open_shard_writer
from sd_core.cache.samples import EmptyCaption, LatentSample
from sd_core.cache.spec import AutoencoderIdentity, CacheIdentity, CacheSpec, TextEncoderIdentity
from sd_core.tar_members import SampleTarWriter

_TOKENS, _DIMS, _SIDE_PX = 7, 8, 64
_IMAGE_BYTES = 2_000
_DROPPED_FOR: Final = "value_below_min"
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


@dataclass(kw_only=True)
class MadeRun:
    """The run, and what is known of it without reading it.

    Attributes:
        folder: A local one, for the list of URLs.
        steps: Those that it has, in order.
        cut_of: For each shard the number of the cut that last changed it; the first keeps all
            rows, the second all but one, the third none.
        keys: Of each shard's rows.
    """

    store: RunStore
    folder: Path
    rows_per_shard: int
    steps: Sequence[str]
    identities: dict[str, StepIdentity] = field(default_factory=dict)
    cut_of: list[int] = field(default_factory=list)
    keys: dict[int, list[str]] = field(default_factory=dict)

    @property
    def urls(self) -> list[str]:
        """Of every row, in order."""
        count = len(self.cut_of) * self.rows_per_shard
        return [f"https://host-{n % 997}.example/{n}.jpg" for n in range(count)]

    def kept(self, shard_id: int) -> list[bool]:
        """Which of a shard's rows the present cut keeps."""
        cut, last = self.cut_of[shard_id], self.rows_per_shard - 1
        dropped = {0: (), 1: (0,), 2: range(last + 1)}.get(cut, (last,))
        return [row not in dropped for row in range(last + 1)]

    def kept_keys(self) -> list[str]:
        """Of all rows that the present cut keeps, sorted."""
        pairs = (zip(self.keys[at], self.kept(at), strict=True) for at in range(len(self.cut_of)))
        return sorted(key for shard in pairs for key, is_kept in shard if is_kept)

    def make(self, num_shards: int) -> None:
        """Plan the list and commit every step of every shard."""
        self.cut_of = [0] * num_shards
        source = self._source()
        plan = make_plan(source, PlanConfig(rows_per_shard=self.rows_per_shard), store=self.store)
        self._revise(plan, source, first=self.steps[0], changed=range(num_shards))

    def recut(self, plan: Plan, changed: Collection[int]) -> None:
        """Another cut, which judges the rows of these shards otherwise."""
        number = max(self.cut_of) + 1
        for shard_id in changed:
            self.cut_of[shard_id] = number
        self._revise(plan, self._source(), first="select", changed=changed)

    def grow(self, plan: Plan, num_shards: int) -> Plan:
        """Add shards to the end of the list; gives the plan that has them."""
        before = len(self.cut_of)
        self.cut_of += [0] * num_shards
        source = self._source()
        grown = grow_plan(
            plan,
            source,
            store=self.store,
            same_rows=planned_before(self.store),
            before_store=lambda: begin_growth(self.store),
        ).plan
        changed = range(before, len(self.cut_of))
        self._revise(grown, source, first=self.steps[0], changed=changed)
        return grown

    def _source(self) -> Source:
        path, urls = self.folder / "list.csv", self.urls
        captions = [f"picture {n}" for n in range(len(urls))]
        pa.csv.write_csv(pa.table({"url": urls, "caption": captions}), path)
        return Source(SourceConfig(path=str(path)))

    def _revise(self, plan: Plan, source: Source, *, first: str, changed: Collection[int]) -> None:
        """Commit the step and those after it: of changed shards anew, others as they were."""
        old = {name: self._committed(name) for name in self.identities}
        again = [name for name in self.steps if name == first or name in later_steps(first)]
        for name in again:
            parents = [
                self.identities[p].fingerprint
                for p in STEP_KINDS[name].parents
                if p in self.identities
            ]
            options = {"plan": len(self.cut_of), "cut": max(self.cut_of)} if name == first else {}
            self.identities[name] = StepIdentity(step=name, options=options, parents=tuple(parents))
        made = {name: self._committed(name) for name in again}
        for name in again:
            if name in old:
                copy_records(self.store, name, old[name].fingerprint, made[name].fingerprint)
            elif name == "encode":
                record_made_cache(made[name])

        def work(shard_id: int) -> None:
            if shard_id in changed:
                rows = read_rows(plan, self.store, source, shard_id)
                self.keys[shard_id] = rows["key"].to_pylist()
                commit_made(made, shard_id, rows, self.kept(shard_id))
                return
            for name in again:
                manifest = old[name].manifest(shard_id)
                create_manifest(self.store, replace(manifest, fingerprint=made[name].fingerprint))

        do_all(work, range(len(self.cut_of)), num_threads=self.store.num_threads)
        self._record(made)

    def _committed(self, name: str) -> Committed:
        return Committed(self.store, name, self.identities[name].fingerprint)

    def _record(self, made: Mapping[str, Committed]) -> None:
        check_or_record(
            self.store,
            self.identities.values(),
            job={"job": "curate", "config": {}},
            recut=frozenset(made),
        )
        for name in made:
            complete_step(
                self.store,
                self.identities[name],
                num_shards=len(self.cut_of),
                folders=STEP_KINDS[name].paths,
                later=later_steps(name),
                publish=partial(publish_cache, made[name]) if name == "encode" else None,
            )


def commit_made(
    made: Mapping[str, Committed],
    shard_id: int,
    rows: pa.Table,
    kept: Sequence[bool],
    *,
    inputs: Callable[[str, int], str | None] | None = None,
) -> list[Manifest]:
    """Commit a shard of these steps, of rows with drawn facts.

    Args:
        kept: Which of the rows.
        inputs: What a step's shard is made from.
    """
    facts = _facts(rows, shard_id)
    keys: list[str] = rows["key"].to_pylist()
    left = [key for key, is_kept in zip(keys, kept, strict=True) if is_kept]
    reasons = pa.array([None if is_kept else _DROPPED_FOR for is_kept in kept], pa.string())
    ledger = facts.drop_columns("reason").append_column("reason", reasons)
    ledger = _as(ledger.append_column("kept", pa.array(kept)), LEDGER)
    with tempfile.TemporaryDirectory(prefix="shard-") as name:
        scratch = Path(name)
        files = {
            "download": lambda: [
                _images(keys, scratch, "images"),
                _table(facts, scratch, "facts/download"),
            ],
            "score": lambda: [_table(_as(facts, SCORE_FACTS), scratch, "facts/score")],
            "select": lambda: [_table(ledger, scratch, "ledger")],
            "publish": lambda: [_images(left, scratch, "kept")] if left else [],
            "encode": lambda: [_latents(left, scratch)] if left else [],
        }
        manifests = []
        for step, committed in made.items():
            rows_in = len(left) if step in ("publish", "encode") else len(keys)
            dropped = len(keys) - len(left) if step == "select" else 0
            manifest = commit_shard(
                committed.store,
                step=step,
                fingerprint=committed.fingerprint,
                shard_id=shard_id,
                files=files[step](),
                rows_in=rows_in,
                kept=rows_in - dropped,
                dropped={_DROPPED_FOR: dropped},
                inputs=None if inputs is None else inputs(step, shard_id),
            )
            manifests.append(manifest)
        return manifests


def record_made_cache(made: Committed) -> None:
    """What the first worker of encode records."""
    record_cache(made, spec=_SPEC, empty_caption=_empty_caption())


def _images(keys: Sequence[str], scratch: Path, folder: str) -> SpooledFile:
    path = scratch / f"{folder}.tar"
    with SampleTarWriter(path) as writer:
        for key in keys:
            told = f'{{"key": "{key}"}}'.encode()
            writer.write(key, {"jpg": key.encode() * (_IMAGE_BYTES // 16), "json": told})
    return SpooledFile(folder=folder, path=path, num_rows=len(keys))


def _latents(keys: Sequence[str], scratch: Path) -> SpooledFile:
    path = scratch / "latents.tar"
    with open_shard_writer(path, _SPEC) as cache:
        for key in keys:
            cache.write(_sample(key))
    return SpooledFile(folder="latents", path=path, num_rows=len(keys))


def _empty_caption() -> EmptyCaption:
    ids, embeds = np.zeros(_TOKENS, np.int32), np.zeros((_TOKENS, _DIMS), np.float32)
    return EmptyCaption(input_ids=ids, prompt_embeds=embeds, pooled_prompt_embeds=embeds[0])


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
        raw_latents=np.zeros(_SPEC.latents_shapes[0], np.float16),
        input_ids=np.zeros(_TOKENS, np.int32),
        prompt_embeds=np.zeros(_SPEC.embeds_shape, np.float16),
        caption=f"picture {key}",
    )


def _table(table: pa.Table, scratch: Path, folder: str) -> SpooledFile:
    path = scratch / f"{folder.replace('/', '-')}.parquet"
    write_table(table, path)
    return SpooledFile(folder=folder, path=path, num_rows=table.num_rows)
