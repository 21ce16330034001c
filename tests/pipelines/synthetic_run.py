"""A small valid run made with the real writers, without a network or a model."""

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.plan import Plan, PlanConfig, load_plan, make_plan, read_rows
from pipelines.redact import redact_text_column, redact_url_column
from pipelines.revisions.readers import RECORD_FILE, show_revision
from pipelines.rows.caption_facts import CaptionFactsConfig
from pipelines.rows.ledger import REJECTS, SCORE_FACTS
from pipelines.run.committed import Committed
from pipelines.run.manifest import (
    Manifest,
    SpooledFile,
    commit_shard,
    create_manifest,
    manifest_path,
    read_manifest,
    sha256_of,
)
from pipelines.run.record import StepIdentity, complete_step
from pipelines.run.recorded_options import check_or_record
from pipelines.run.spool import CropSpool
from pipelines.run.store import RunStore
from pipelines.run.stored_json import write_json
from pipelines.run.tables import read_table, write_table
from pipelines.sources import Source, SourceConfig
from pipelines.steps.download.intake import RowOutcome
from pipelines.steps.download.shard_files import download_facts, write_crops
from pipelines.steps.kinds import later_steps
from pipelines.steps.select import Select, SelectConfig, Threshold
from sd_core.cache.formats import open_shard_writer
from sd_core.cache.samples import EmptyCaption, LatentSample
from sd_core.cache.spec import (
    AutoencoderIdentity,
    CacheIdentity,
    CacheSpec,
    TextEncoderIdentity,
)
from sd_core.errors import FoundryError
from sd_core.sealed import sha256_of_bytes, unseal

SIZE = 32
ROWS_PER_SHARD = 8
NUM_ROWS = 21
FOLDERS = {
    "download": ("images", "facts/download"),
    "score": ("facts/score",),
    "select": ("ledger",),
    "encode": ("latents", "latents/rejects"),
}
SELECT = SelectConfig(thresholds={"aesthetic_v2": Threshold(min=3.0)})
SPEC = CacheSpec(
    identity=CacheIdentity(
        autoencoder=AutoencoderIdentity(
            kind="kl",
            weights_sha256="0" * 64,
            scaling_factor=0.5,
            shift_factor=0.0,
            latent_channels=4,
            downsampling=8,
        ),
        text_encoder=TextEncoderIdentity(
            weights_sha256="0" * 64,
            tokenizer_sha256="0" * 64,
            token_length=7,
            embed_dim=3,
            pad_token_id=0,
        ),
    ),
    form="moments",
    dtype="float16",
    format="webdataset",
    resolution_px=SIZE,
    prompt_embeds=True,
)
IDENTITIES = {
    name: StepIdentity(step=name, options={name: options})
    for name, options in {
        "download": {"retries": 2},
        "score": {},
        "select": SELECT.identity(),
        "encode": {},
    }.items()
}


def fingerprint(step: str) -> str:
    """Of a step of the synthetic run."""
    return IDENTITIES[step].fingerprint


def build_run(
    root: Path, *, store: RunStore | None = None, lost: Mapping[str, int] | None = None
) -> RunStore:
    """21 rows in 3 shards: every step complete, drops of several kinds, one encode reject.

    Args:
        root: Local scratch, and where the run is unless `store` says otherwise.
        lost: Step to the shard that it gave up.
    """
    store = store or RunStore(str(root / "run"))
    lost = lost or {}
    source = write_list(root)
    plan = make_plan(source, PlanConfig(rows_per_shard=ROWS_PER_SHARD), store=store)
    for shard_id in range(plan.num_shards):
        rows_in = plan.shards["num_rows"][shard_id].as_py()
        if lost.get("download") == shard_id:
            quarantine(store, "download", shard_id, rows_in=rows_in)
            quarantine(store, "score", shard_id, rows_in=0)
            continue
        download = write_download(store, source, shard_id, scratch=root)
        if lost.get("score") == shard_id:
            quarantine(store, "score", shard_id, rows_in=download.kept)
        else:
            write_score(store, shard_id, scratch=root)
    select(store, source).run(lambda manifest: None)
    write_encode(store, scratch=root)
    check_or_record(
        store, IDENTITIES.values(), job={"job": "curate", "config": {"image": {"size": SIZE}}}
    )
    complete(store)
    return store


def quarantine(store: RunStore, step: str, shard_id: int, *, rows_in: int) -> None:
    """Give a shard up, as the engine does."""
    create_manifest(
        store,
        Manifest(
            step=step,
            fingerprint=fingerprint(step),
            shard_id=shard_id,
            files=(),
            rows_in=rows_in,
            kept=0,
            dropped={"shard_quarantined": rows_in} if rows_in else {},
            quarantined="boom",
        ),
    )


def complete(store: RunStore) -> None:
    """Make the steps' manifests current, indexes and counts included, from nothing."""
    store.delete("revision.json")
    store.delete(RECORD_FILE)
    num_shards = load_plan(store).num_shards
    for step, identity in IDENTITIES.items():
        complete_step(
            store,
            identity,
            num_shards=1 if step == "encode" else num_shards,
            folders=FOLDERS[step],
            later=later_steps(step),
        )
    show_revision(store)


def edit_json(store: RunStore, path: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a small file of a run as if it had been written so."""
    tree = unseal(store.read_bytes(path))
    change(tree)
    write_json(store, path, tree)


def renew_digests(store: RunStore) -> None:
    """Have the revision name what is there now, so that only what is inside can be wrong."""

    def change(tree: dict[str, Any]) -> None:
        for name, step in tree["steps"].items():
            made = Committed(store, name, step["fingerprint"])
            for path in step["digests"]:
                if path == made.folder:
                    digests = "".join(each.digest for each in made.manifests(step["num_shards"]))
                    step["digests"][path] = sha256_of_bytes(digests.encode())
                elif store.exists(path):
                    step["digests"][path] = sha256_of_bytes(store.read_bytes(path))

    with suppress(FoundryError, KeyError, OSError, ValueError):
        edit_json(store, "revision.json", change)


def write_list(root: Path) -> Source:
    """A JSONL list with a duplicate row, a null URL, and URLs with credentials."""
    path = root / "list.jsonl"
    with path.open("w") as stream:
        for number in range(NUM_ROWS):
            url = f"https://user:secret@host.example/{number % 20}.jpg"
            row = {"url": None if number == 5 else url, "caption": f"picture {number % 20}"}
            stream.write(json.dumps(row | {"width": 100 + number % 20}) + "\n")
    return Source(SourceConfig(path=str(path)))


def picture(number: int) -> bytes:
    """A JPEG of its own; numbers 1 and 2 are the same."""
    generator = np.random.default_rng(1 if number == 2 else number)
    pixels = generator.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=80)
    return stream.getvalue()


def write_download(store: RunStore, source: Source, shard_id: int, *, scratch: Path) -> Manifest:
    """Commit a shard of images and facts; every seventh row is not found."""
    rows = read_rows(load_plan(store), store, source, shard_id)
    outcomes = {}
    spool = CropSpool(scratch / f"spool-{shard_id}")
    for row in rows.to_pylist():
        number = shard_id * ROWS_PER_SHARD + row["row"]
        if row["reason"] is not None:
            continue
        if number % 7 == 6:
            outcomes[row["row"]] = RowOutcome(status="failed_to_download", reason="http_not_found")
            continue
        content = picture(number)
        spool.add(row["row"], content)
        outcomes[row["row"]] = RowOutcome(
            status="success",
            original_width=64,
            original_height=48,
            width=SIZE,
            height=SIZE,
            sha256=hashlib.sha256(content).hexdigest(),
            final_url=row["url"],
        )
    facts = download_facts(
        rows, shard_id=shard_id, outcomes=outcomes, caption_facts=CaptionFactsConfig()
    )
    tar, table = scratch / "images.tar", scratch / "facts.parquet"
    count = write_crops(facts, spool=spool, path=tar, extension="jpg")
    spool.close()
    write_table(facts, table)
    return commit_shard(
        store,
        step="download",
        fingerprint=fingerprint("download"),
        shard_id=shard_id,
        files=[
            SpooledFile(folder="images", path=tar, num_rows=count),
            SpooledFile(folder="facts/download", path=table, num_rows=facts.num_rows),
        ],
        rows_in=facts.num_rows,
        kept=count,
        dropped=Counter(reason for reason in facts["reason"].to_pylist() if reason),
    )


def write_score(store: RunStore, shard_id: int, *, scratch: Path) -> None:
    """Commit a shard of scores; aesthetic_v2 is the row number."""
    facts = committed_table(store, "download", shard_id, "facts/download")
    stored = facts.filter(facts["reason"].is_null())
    columns: dict[str, Any] = {name: stored[name] for name in ("shard_id", "row", "key")}
    columns["aesthetic_v2"] = stored["row"].cast(pa.float32())
    scores = pa.table(
        [columns.get(f.name, pa.nulls(stored.num_rows, f.type)) for f in SCORE_FACTS],
        schema=SCORE_FACTS,
    )
    commit_table(store, "score", shard_id, scores, folder="facts/score", scratch=scratch)


def select(store: RunStore, source: Source, *, config: SelectConfig = SELECT) -> Select:
    """The real Select over the run."""
    plan = load_plan(store)
    return Select(
        store=store,
        fingerprint=fingerprint("select"),
        config=config,
        num_shards=plan.num_shards,
        images=Committed(store, "download", fingerprint("download")),
        score=Committed(store, "score", fingerprint("score")),
        read_rows=lambda shard_id: redacted(read_rows(plan, store, source, shard_id)),
    )


def redacted(rows: pa.Table) -> pa.Table:
    """The rows as they may be stored."""
    columns = {
        "url": redact_url_column(rows["url"]),
        "caption": redact_text_column(rows["caption"]),
    }
    for name, column in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def commit_table(
    store: RunStore, step: str, shard_id: int, table: pa.Table, *, folder: str, scratch: Path
) -> Manifest:
    """Commit one Parquet file in which every row is kept."""
    path = scratch / "table.parquet"
    write_table(table, path)
    return commit_shard(
        store,
        step=step,
        fingerprint=fingerprint(step),
        shard_id=shard_id,
        files=[SpooledFile(folder=folder, path=path, num_rows=table.num_rows)],
        rows_in=table.num_rows,
        kept=table.num_rows,
        dropped={},
    )


def committed_table(store: RunStore, step: str, shard_id: int, folder: str) -> pa.Table:
    """A committed Parquet file."""
    manifest = read_manifest(store, step, fingerprint(step), shard_id)
    assert manifest is not None
    entry = manifest.file(folder)
    assert entry is not None
    return read_table(store, entry.path)


def ledger_of(store: RunStore, plan: Plan) -> pa.Table:
    """The whole ledger."""
    shards = range(plan.num_shards)
    return pa.concat_tables(committed_table(store, "select", n, "ledger") for n in shards)


def latent_sample(key: str, caption: str) -> LatentSample:
    """A row of the cache."""
    return LatentSample(
        key=key,
        raw_latents=np.zeros(SPEC.latents_shapes[0], np.float16),
        input_ids=np.zeros(7, np.int32),
        prompt_embeds=np.zeros(SPEC.embeds_shape, np.float16),
        caption=caption,
    )


def write_encode(store: RunStore, *, scratch: Path) -> None:
    """Commit one latent shard of all kept rows, the first of them as a reject."""
    ledger = ledger_of(store, load_plan(store))
    kept = ledger.filter(ledger["kept"]).to_pylist()
    tar, table = scratch / "latents.tar", scratch / "rejects.parquet"
    with open_shard_writer(tar, SPEC) as writer:
        for row in kept[1:]:
            assert writer.write(latent_sample(row["key"], row["caption"]))
    reject = {name: kept[0][name] for name in ("shard_id", "row", "key")}
    rejects = [reject | {"reason": "latents_not_finite", "error_message": None}]
    write_table(pa.Table.from_pylist(rejects, schema=REJECTS), table)
    ids, embeds = np.zeros(7, np.int32), np.zeros((7, 3), np.float32)
    empty = EmptyCaption(input_ids=ids, prompt_embeds=embeds, pooled_prompt_embeds=embeds[0])
    store.replace("latents/spec.json", SPEC.to_json())
    store.replace("latents/empty_caption.safetensors", empty.to_bytes())
    commit_shard(
        store,
        step="encode",
        fingerprint=fingerprint("encode"),
        shard_id=0,
        files=[
            SpooledFile(folder="latents", path=tar, num_rows=len(kept) - 1),
            SpooledFile(folder="latents/rejects", path=table, num_rows=1),
        ],
        rows_in=len(kept),
        kept=len(kept) - 1,
        dropped={"latents_not_finite": 1},
    )


@dataclass(frozen=True)
class Forger:
    """Changes a committed run so that hashes, sizes and indexes still fit."""

    store: RunStore

    def manifest(self, step: str, shard_id: int, change: Callable[[dict[str, Any]], None]) -> None:
        """Edit a manifest's JSON."""
        path = manifest_path(step, fingerprint(step), shard_id)
        edit_json(self.store, path, change)

    def path(self, step: str, shard_id: int, folder: str) -> Path:
        """A committed file on disk."""
        manifest = read_manifest(self.store, step, fingerprint(step), shard_id)
        assert manifest is not None
        entry = manifest.file(folder)
        assert entry is not None
        return Path(self.store.absolute(entry.path))

    def file(self, step: str, shard_id: int, folder: str, change: Callable[[Path], None]) -> None:
        """Change a committed file on disk and record its new hash and size everywhere."""
        old = self.path(step, shard_id, folder)
        new = old.with_name(f"new{old.suffix}")
        shutil.copyfile(old, new)
        change(new)
        digest = sha256_of(new)
        name = f"{folder}/{shard_id:06d}-{digest[:16]}{old.suffix}"

        def record(tree: dict[str, Any]) -> None:
            for entry in tree["files"]:
                if entry["path"].rpartition("/")[0] == folder:
                    entry |= {"path": name, "sha256": digest, "num_bytes": new.stat().st_size}

        self.manifest(step, shard_id, record)
        new.rename(self.store.absolute(name))
        complete(self.store)

    def table(
        self, step: str, shard_id: int, folder: str, change: Callable[[pa.Table], pa.Table]
    ) -> None:
        """Change a committed Parquet file."""

        def rewrite(path: Path) -> None:
            write_table(change(pq.read_table(path)), path)

        self.file(step, shard_id, folder, rewrite)

    def values(self, step: str, shard_id: int, folder: str, column: str, **rows: object) -> None:
        """Set values of one column, as `r3=value` for row 3."""

        def change(table: pa.Table) -> pa.Table:
            values = table[column].to_pylist()
            for row, value in rows.items():
                values[int(row[1:])] = value
            field = table.schema.field(column)
            at = table.schema.get_field_index(column)
            return table.set_column(at, field.with_nullable(True), [pa.array(values, field.type)])

        self.table(step, shard_id, folder, change)
