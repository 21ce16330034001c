"""The latent cache: each shard against its manifest, its rejects and the spec."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.manifest import FileEntry, Manifest
from pipelines.run import StepSummary
from pipelines.storage import RunStore
from pipelines.verify.archive import read_samples
from pipelines.verify.facts import check_rejects
from pipelines.verify.fault import Fault, limit
from pipelines.verify.files import check_sha256, load_table, local_copy
from pipelines.verify.manifests import load_manifest

SPEC_PATH = "latents/spec.json"
EMPTY_CAPTION_PATH = "latents/empty_caption.safetensors"


@dataclass(frozen=True, kw_only=True)
class LatentReport:
    """What was found in one shard of the cache; `keys` are the encoded and the rejected rows."""

    shard_id: int
    manifest: Manifest | None
    faults: tuple[Fault, ...]
    keys: tuple[str, ...] = ()


def check_cache_files(store: RunStore, faults: list[Fault]) -> Mapping[str, Any] | None:
    """The files that every reader of the cache opens first; returns the spec."""
    if not store.exists(EMPTY_CAPTION_PATH):
        faults.append(Fault(EMPTY_CAPTION_PATH, "missing", "the empty caption's embedding"))
    try:
        spec = json.loads(store.read_bytes(SPEC_PATH))
    except FileNotFoundError:
        faults.append(Fault(SPEC_PATH, "missing", "the cache's spec"))
        return None
    except ValueError as error:
        faults.append(Fault(SPEC_PATH, f"not JSON ({error})", "the cache's spec"))
        return None
    return spec if isinstance(spec, dict) else None


@dataclass(frozen=True, kw_only=True)
class LatentsCheck:
    """Checks shards of the cache one at a time; safe to call from several threads."""

    store: RunStore
    summary: StepSummary
    spec: Mapping[str, Any] | None
    deep: bool

    def __call__(self, shard_id: int) -> LatentReport:
        """Check one shard of the encode step."""
        faults: list[Fault] = []
        manifest = load_manifest(self.store, "encode", self.summary, shard_id, faults)
        keys: list[str] = []
        if manifest is not None and self.deep:
            self._look_inside(manifest, faults, keys)
        return LatentReport(
            shard_id=shard_id, manifest=manifest, faults=tuple(faults), keys=tuple(keys)
        )

    def _look_inside(self, manifest: Manifest, faults: list[Fault], keys: list[str]) -> None:
        entry = manifest.file("latents")
        if entry is not None:
            faults += limit(self._check_latents(entry, keys), entry.path)
        entry = manifest.file("latents/rejects")
        rejects = load_table(self.store, entry, faults)
        if entry is not None and rejects is not None:
            faults += limit(check_rejects(rejects, manifest, where=entry.path), entry.path)
            if "key" in rejects.column_names:
                keys += rejects["key"].to_pylist()

    def _check_latents(self, entry: FileEntry, keys: list[str]) -> Iterator[Fault]:
        found: list[str] = []
        try:
            with local_copy(self.store, entry.path) as local:
                yield from check_sha256(local, entry)
                for key in _read_keys(local):
                    found.append(key)
        except FileNotFoundError:
            return  # reported with its size
        except (tarfile.TarError, OSError, pa.ArrowException) as error:
            yield Fault(entry.path, f"cannot be read ({error})", "a whole file")
        if len(found) != entry.num_rows:
            yield Fault(entry.path, f"{len(found)} rows", f"{entry.num_rows}")
        keys += found


def _read_keys(path: Path) -> Iterator[str]:
    if path.suffix == ".tar":
        for sample in read_samples(path):
            yield sample.key
    else:
        yield from pq.read_table(path, columns=["key"], page_checksum_verification=True)[
            "key"
        ].to_pylist()
