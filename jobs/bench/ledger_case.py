"""A run's facts as if it had been fetched and scored: real sizes, made-up everything else."""

import hashlib
import io
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.bench.image_set import read_real_sizes
from pipelines.rows.ledger import ORIGIN_FACTS, SCORE_FACTS
from pipelines.run.manifest import SpooledFile, commit_shard
from pipelines.run.record import StepIdentity
from pipelines.run.store import RunStore
from pipelines.run.tables import write_table

ROWS_PER_SHARD = 10_000

_FAILED = 0.15
_BYTE_COPIES, _NEAR_COPIES, _PLAIN = 0.05, 0.05, 0.005
_NUM_DOMAINS = 20_000
_KINDS = 500
_WORDS = (
    "a",
    "the",
    "of",
    "with",
    "on",
    "red",
    "blue",
    "small",
    "large",
    "old",
    "photo",
    "house",
    "tree",
)


@dataclass(frozen=True, kw_only=True)
class LedgerCase:
    """Where the facts lie, how many rows they have, and by which steps they were made: that of the
    images, then score."""

    store: RunStore
    num_rows: int
    num_shards: int
    images: StepIdentity
    score: StepIdentity


def make_facts(
    root: Path,
    *,
    num_rows: int,
    metadata: Path,
    seed: int = 0,
    origin: str = "download",
    picture: bytes | None = None,
) -> LedgerCase:
    """Commit the download (or generate) and score steps of a run without images; with `picture`, a
    JPEG, all stored rows of the first shard have that one.

    15% of the rows failed; of the others 5% are byte copies and 5% near copies (1 to 4 bits of the
    hash) of an earlier row, 0.5% are plain pictures with one hash, and the rest are of 500 kinds
    whose hashes agree more often than chance, as those of photographs do. A few domains have most
    of the rows.
    """
    store = RunStore(str(root))
    random = np.random.default_rng(seed)
    sizes = _sizes(metadata, num_rows, random)
    failed = random.random(num_rows) < _FAILED
    pictures = np.arange(num_rows)
    copied = random.random(num_rows) < _BYTE_COPIES
    pictures[copied] = (pictures[copied] * random.random(copied.sum())).astype(np.int64)
    hashes = _hashes(num_rows, random)[pictures]
    domains = (random.pareto(1.0, num_rows) * 20).astype(np.int64) % _NUM_DOMAINS
    num_shards = -(-num_rows // ROWS_PER_SHARD)
    images = StepIdentity(step=origin, options={})
    score = StepIdentity(step="score", options={}, parents=(images.fingerprint,))
    for shard_id in range(num_shards):
        rows = slice(shard_id * ROWS_PER_SHARD, min(num_rows, (shard_id + 1) * ROWS_PER_SHARD))
        facts = _image_facts(
            ORIGIN_FACTS[origin],
            shard_id,
            pictures=pictures[rows],
            hashes=hashes[rows],
            domains=domains[rows],
            sizes=sizes[rows],
            failed=failed[rows],
        )
        tar = _tar(root / "pictures.tar", facts, picture) if picture and not shard_id else None
        _commit(store, root, images, shard_id, facts, tar=tar)
        _commit(store, root, score, shard_id, _score_facts(facts, random))
    return LedgerCase(
        store=store, num_rows=num_rows, num_shards=num_shards, images=images, score=score
    )


def _sizes(metadata: Path, count: int, random: np.random.Generator) -> npt.NDArray[np.int32]:
    try:
        known = [(size.width, size.height) for size in read_real_sizes(metadata)]
    except FileNotFoundError:
        known = random.lognormal(6.2, 0.5, (10_000, 2)).astype(int).tolist()
    return np.array(known, np.int32)[random.integers(0, len(known), count)]


def _hashes(count: int, random: np.random.Generator) -> npt.NDArray[np.uint64]:
    chances = random.beta(2, 2, (_KINDS, 64)).astype(np.float32)
    hashes = np.empty(count, np.uint64)
    for low in range(0, count, 100_000):
        kinds = random.integers(0, _KINDS, min(100_000, count - low))
        bits = random.random((len(kinds), 64), np.float32) < chances[kinds]
        hashes[low : low + len(kinds)] = np.packbits(bits, axis=1).view(">u8")[:, 0]
    hashes[random.random(count) < _PLAIN] = 0
    near = np.flatnonzero(random.random(count) < _NEAR_COPIES)
    flips = np.zeros(len(near), np.uint64)
    for _ in range(4):
        flips |= np.uint64(1) << random.integers(0, 64, len(near)).astype(np.uint64)
    hashes[near] = hashes[(near * random.random(len(near))).astype(np.int64)] ^ flips
    return hashes


def _image_facts(
    schema: pa.Schema,
    shard_id: int,
    *,
    pictures: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.uint64],
    domains: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int32],
    failed: npt.NDArray[np.bool_],
) -> pa.Table:
    count = len(pictures)
    first = shard_id * ROWS_PER_SHARD
    numbers = range(first, first + count)
    digests = [hashlib.sha256(b"%d" % picture).hexdigest() for picture in pictures.tolist()]
    urls = [
        f"https://host-{domain}.example/images/{number}.jpg?size={number % 7}"
        for domain, number in zip(domains.tolist(), numbers, strict=True)
    ]
    made: dict[str, pa.Array] = {
        "shard_id": pa.array(np.full(count, shard_id, np.int32)),
        "row": pa.array(np.arange(count, dtype=np.int32)),
        "key": pa.array([hashlib.blake2b(b"%d" % n, digest_size=8).hexdigest() for n in numbers]),
        "url": pa.array(urls),
        "caption": pa.array([_caption(number) for number in numbers]),
        "status": pa.array(np.where(failed, "failed_to_download", "success")),
        "reason": pa.array(np.where(failed, "http_not_found", ""), mask=~failed),
        "original_width": pa.array(sizes[:, 0], mask=failed),
        "original_height": pa.array(sizes[:, 1], mask=failed),
        "width": pa.array(np.full(count, 512, np.int32), mask=failed),
        "height": pa.array(np.full(count, 512, np.int32), mask=failed),
        "sha256": pa.array(np.array(digests), mask=failed),
        "final_url": pa.array(np.array(urls), mask=failed),
        "noise_seed": pa.array(np.arange(first, first + count)),
        "phash": pa.array(np.array([f"{value:016x}" for value in hashes.tolist()]), mask=failed),
    }
    arrays = [
        made[field.name].cast(field.type) if field.name in made else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _caption(number: int) -> str:
    return " ".join(_WORDS[(number * step) % len(_WORDS)] for step in range(3, 5 + number % 9))


def _score_facts(facts: pa.Table, random: np.random.Generator) -> pa.Table:
    stored = facts.filter(facts["reason"].is_null())
    count = stored.num_rows
    made: dict[str, npt.NDArray[np.float64]] = {
        "clip_similarity": random.normal(0.3, 0.04, count),
        "aesthetic_v2": random.normal(5.2, 0.7, count),
        "punsafe": random.beta(0.3, 4, count),
    }
    arrays = [
        stored[field.name]
        if field.name in stored.column_names
        else pa.array(made[field.name], field.type)
        if field.name in made
        else pa.nulls(count, field.type)
        for field in SCORE_FACTS
    ]
    return pa.Table.from_arrays(arrays, schema=SCORE_FACTS)


def _tar(path: Path, facts: pa.Table, picture: bytes) -> SpooledFile:
    keys = facts.filter(facts["reason"].is_null())["key"].to_pylist()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key in keys:
            member = tarfile.TarInfo(f"{key}.jpg")
            member.size = len(picture)
            tar.addfile(member, io.BytesIO(picture))
    return SpooledFile(folder="images", path=path, num_rows=len(keys))


def _commit(
    store: RunStore,
    root: Path,
    step: StepIdentity,
    shard_id: int,
    table: pa.Table,
    *,
    tar: SpooledFile | None = None,
) -> None:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "table.parquet"
    write_table(table, path)
    reasons = table["reason"].to_pylist() if "reason" in table.column_names else []
    dropped = Counter(reason for reason in reasons if reason is not None)
    file = SpooledFile(folder=f"facts/{step.step}", path=path, num_rows=table.num_rows)
    files = [file, *([tar] if tar is not None else [])]
    commit_shard(
        store,
        step=step.step,
        fingerprint=step.fingerprint,
        shard_id=shard_id,
        files=files,
        rows_in=table.num_rows,
        kept=table.num_rows - sum(dropped.values()),
        dropped=dropped,
    )
    for spooled in files:
        spooled.path.unlink()
