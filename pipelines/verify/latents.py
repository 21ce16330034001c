"""The latent cache: each shard against its manifest, its rejects and the spec."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.run.manifest import FileEntry, Manifest
from pipelines.run.record import StepSummary
from pipelines.run.store import RunStore
from pipelines.verify.facts import check_rejects
from pipelines.verify.fault import Fault, limit
from pipelines.verify.files import (
    check_digest,
    check_sha256,
    load_table,
    local_copy,
    raise_unreadable,
)
from pipelines.verify.manifests import Held
from sd_core.cache.formats import format_of, iterate_shard
from sd_core.cache.samples import BucketRows, CacheShardError, LatentSample, read_empty_caption
from sd_core.cache.spec import CacheSpec, CacheSpecError, read_digests, read_spec

SPEC_PATH = "latents/spec.json"
EMPTY_CAPTION_PATH = "latents/empty_caption.safetensors"


@dataclass(frozen=True, kw_only=True)
class LatentReport:
    """What was found in one shard of the cache; `keys` are the encoded and the rejected rows."""

    shard_id: int
    manifest: Manifest | None
    faults: tuple[Fault, ...]
    keys: tuple[str, ...] = ()


def load_cache_files(
    store: RunStore, summary: StepSummary, faults: list[Fault]
) -> CacheSpec | None:
    """The files that every reader of the cache opens first; returns the spec.

    A cache in which no row was encoded may have neither.
    """
    if not summary.kept and not store.exists(SPEC_PATH):
        return None
    expected = "the cache's spec"
    folder = f"manifests/encode/{summary.fingerprint}"
    try:
        content = store.read_bytes(SPEC_PATH)
        spec = read_spec(content, where=SPEC_PATH)
        for name, digest in read_digests(content, where=SPEC_PATH).items():
            faults += check_digest(store, f"latents/{name}", digest)
    except FileNotFoundError:
        faults.append(Fault(SPEC_PATH, "missing", expected))
        return None
    except CacheSpecError as error:
        faults.append(Fault(SPEC_PATH, str(error).removeprefix(f"{SPEC_PATH}: "), expected))
        return None
    recorded = f"{folder}/spec.json"
    try:
        if read_spec(store.read_bytes(recorded), where=recorded) != spec:
            faults.append(Fault(SPEC_PATH, "the spec of another revision", f"as in {recorded}"))
    except FileNotFoundError:
        pass  # of a run made before they were kept
    except CacheSpecError as error:
        faults.append(Fault(recorded, str(error).removeprefix(f"{recorded}: "), expected))
    expected = "the empty caption's embedding"
    try:
        content = store.read_bytes(EMPTY_CAPTION_PATH)
        recorded = f"{folder}/{EMPTY_CAPTION_PATH.rpartition('/')[2]}"
        if store.exists(recorded) and store.read_bytes(recorded) != content:
            faults.append(Fault(EMPTY_CAPTION_PATH, "another one", f"as in {recorded}"))
        read_empty_caption(content, spec)
    except FileNotFoundError:
        faults.append(Fault(EMPTY_CAPTION_PATH, "missing", expected))
    except CacheShardError as error:
        faults.append(Fault(EMPTY_CAPTION_PATH, str(error), expected))
    return spec


@dataclass(frozen=True, kw_only=True)
class LatentsCheck:
    """Checks shards of the cache one at a time; safe to call from several threads."""

    held: Held
    spec: CacheSpec | None

    def __call__(self, shard_id: int) -> LatentReport:
        """Check one shard of the encode step."""
        faults: list[Fault] = []
        manifest = self.held.load(shard_id, faults)
        keys: list[str] = []
        if manifest is not None and self.held.deep:
            self._look_inside(manifest, faults, keys)
        return LatentReport(
            shard_id=shard_id, manifest=manifest, faults=tuple(faults), keys=tuple(keys)
        )

    def _look_inside(self, manifest: Manifest, faults: list[Fault], keys: list[str]) -> None:
        entry = manifest.file("latents")
        if entry is not None:
            faults += limit(self._check_latents(entry, keys), entry.path)
        entry = manifest.file("latents/rejects")
        rejects = load_table(self.held.made.store, entry, faults)
        if entry is not None and rejects is not None:
            faults += limit(check_rejects(rejects, manifest, where=entry.path), entry.path)
            if "key" in rejects.column_names:
                keys += rejects["key"].to_pylist()

    def _check_latents(self, entry: FileEntry, keys: list[str]) -> Iterator[Fault]:
        before = len(keys)
        try:
            with local_copy(self.held.made.store, entry.path) as local:
                yield from check_sha256(local, entry)
                if self.spec is None:
                    return  # without it nothing can be said about what is inside
                if local.suffix != format_of(self.spec).suffix:
                    yield Fault(entry.path, f"a {local.suffix} file", f"{self.spec.format}")
                    return
                rows = BucketRows(self.spec)
                with local.open("rb") as stream:
                    for sample in iterate_shard(stream, self.spec, name=entry.path):
                        keys.append(sample.key)
                        rows.add(sample)
                        yield from check_sample_finite(sample, where=f"{entry.path} {sample.key}")
                if rows.counts != entry.bucket_rows:
                    yield Fault(entry.path, f"{rows.counts} rows by bucket", f"{entry.bucket_rows}")
        except FileNotFoundError:
            return  # reported with its size
        except CacheShardError as error:
            raise_unreadable(error)
            found = str(error).removeprefix(f"{entry.path}: ")
            yield Fault(entry.path, found, f"samples as {SPEC_PATH} says")
        if len(keys) - before != entry.num_rows:
            yield Fault(entry.path, f"{len(keys) - before} rows", f"{entry.num_rows}")


def check_sample_finite(sample: LatentSample, *, where: str) -> Iterator[Fault]:
    """Shapes and types were checked when the sample was read; its values are checked here."""
    arrays = {"latents": sample.raw_latents, "prompt_embeds": sample.prompt_embeds}
    for name, array in arrays.items():
        if array is not None and not np.isfinite(array).all():
            yield Fault(where, f"{name} with values that are not finite", "finite values")
