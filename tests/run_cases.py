"""A run whose download and select are committed, for steps that read them."""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from pipelines.rows.ledger import DOWNLOAD_FACTS, LEDGER
from pipelines.run.manifest import SpooledFile, commit_shard
from pipelines.run.store import RunStore
from pipelines.run.tables import write_table
from sd_core.sealed import seal_tree, sha256_of_bytes


@dataclass(frozen=True)
class Row:
    """An input row; without pixels its download failed."""

    key: str
    pixels: npt.NDArray[np.uint8] | None
    caption: str | None = "a caption"
    kept: bool = True


def rows(count: int, *, size: int = 32, seed: int = 0) -> list[Row]:
    """Rows of coloured noise; every fifth has no image."""
    generator = np.random.default_rng(seed)
    found = []
    for index in range(count):
        pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
        has_image = index % 5 != 4
        found.append(
            Row(
                key=f"{seed * 1000 + index:016x}",
                pixels=pixels if has_image else None,
                caption=None if index == 1 else f"caption {index}",
                kept=has_image and index % 3 != 2,
            )
        )
    return found


def commit_download(store: RunStore, shard_id: int, shard: Sequence[Row], folder: Path) -> None:
    """Commit a shard as the download step does, with lossless crops."""
    tar, facts = folder / f"{shard_id}.tar", folder / f"{shard_id}.parquet"
    stored = [row for row in shard if row.pixels is not None]
    with tarfile.open(tar, "w") as archive:
        for row in stored:
            assert row.pixels is not None
            png = io.BytesIO()
            Image.fromarray(row.pixels).save(png, "PNG")
            members = {
                "png": png.getvalue(),
                "json": json.dumps({"key": row.key}).encode(),
                "txt": (row.caption or "").encode(),
            }
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{row.key}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    table = [_facts(shard_id, number, row) for number, row in enumerate(shard)]
    write_table(pa.Table.from_pylist(table, schema=DOWNLOAD_FACTS), facts)
    failed = len(shard) - len(stored)
    files = [SpooledFile(folder="facts/download", path=facts, num_rows=len(table))]
    if stored:
        files.append(SpooledFile(folder="images", path=tar, num_rows=len(stored)))
    commit_shard(
        store,
        step="download",
        fingerprint="d" * 16,
        shard_id=shard_id,
        files=files,
        rows_in=len(shard),
        kept=len(stored),
        dropped={"http_not_found": failed},
    )


def commit_ledger(store: RunStore, shard_id: int, shard: Sequence[Row], folder: Path) -> None:
    """Commit the verdicts as select does."""
    path = folder / f"ledger-{shard_id}.parquet"
    table = [
        {**_facts(shard_id, number, row), "kept": row.kept} for number, row in enumerate(shard)
    ]
    for row in table:
        if not row["kept"] and row["reason"] is None:
            row["reason"] = "aesthetic_v1_below_min"
    write_table(pa.Table.from_pylist(table, schema=LEDGER), path)
    kept = sum(row.kept for row in shard)
    dropped = {"aesthetic_v1_below_min": len(shard) - kept}
    commit_shard(
        store,
        step="select",
        fingerprint="e" * 16,
        shard_id=shard_id,
        files=[SpooledFile(folder="ledger", path=path, num_rows=len(shard))],
        rows_in=len(shard),
        kept=kept,
        dropped=dropped,
    )


def _facts(shard_id: int, number: int, row: Row) -> dict[str, Any]:
    if row.pixels is None:
        reason, side = "http_not_found", None
    else:
        reason, side = None, len(row.pixels)
    return {
        "shard_id": shard_id,
        "row": number,
        "key": row.key,
        "caption": row.caption,
        "reason": reason,
        "sha256": None if side is None else f"{number:064x}",
        **dict.fromkeys(("original_width", "original_height", "width", "height"), side),
    }


def recommit(file: Path, content: bytes) -> None:
    """Put other bytes into a committed file of a local run, as if they had been committed."""
    file.write_bytes(content)
    work = file.parents[1]
    root, name = work.parent, file.relative_to(work).as_posix()
    for path in root.glob("_work/manifests/*/*/*.json"):
        tree = json.loads(path.read_text())
        for entry in tree.get("files", ()):
            if entry["path"] == name:
                entry |= {"sha256": sha256_of_bytes(content), "num_bytes": len(content)}
                del tree["own_digest"]
                path.write_bytes(seal_tree(tree))
                forget_digests(root, tree["step"])


def forget_digests(root: Path, *steps: str) -> None:
    """Take the digests of these steps, or of all, out of a run's revision: none had them before."""
    revision = root / "revision.json"
    if revision.exists():
        tree = json.loads(revision.read_text())
        del tree["own_digest"]
        for name in steps or tree["steps"]:
            tree["steps"][name]["digests"] = {}
        revision.write_bytes(seal_tree(tree))


def committed_files(run: Path, folder: str) -> list[Path]:
    """The committed files of a folder that are of the current revision, in order."""
    store = RunStore(str(run))
    lines = store.read_bytes(f"{folder}/shards.txt").decode().split()
    return [Path(store.absolute(line)) for line in lines]
