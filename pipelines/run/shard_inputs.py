"""What a shard of a step with models was made from: another revision with the same reuses it."""

import hashlib
import json
from collections.abc import Iterable, Sequence

from pipelines.run.manifest import Manifest, read_manifest
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table


def score_inputs(
    store: RunStore, *, options: str, origin: str, images: str, shard: int
) -> str | None:
    """Digest of the options and the images; None where these are not committed or given up.

    Args:
        options: `StepIdentity.options_digest` of the score step.
        origin: The step that made the images.
        images: Its fingerprint.
        shard: Which.
    """
    manifest = read_manifest(store, origin, images, shard)
    if manifest is None or manifest.quarantined is not None:
        return None
    return _digest([options, _sha256(manifest, "images")])


def encode_inputs(
    store: RunStore, *, options: str, download: str, select: str, shards: Iterable[int]
) -> str | None:
    """Digest of the options, the images, and the keys that select kept of them; None where one of
    the shards is not committed.

    Args:
        options: `StepIdentity.options_digest` of the encode step.
        download: Fingerprint of the download step.
        select: Fingerprint of the select step.
        shards: Download's shards, in order.
    """
    parts: list[object] = [options]
    for shard in shards:
        images = read_manifest(store, "download", download, shard)
        ledger = read_manifest(store, "select", select, shard)
        if images is None or ledger is None:
            return None
        keys = kept_keys(store, ledger)
        parts.append([shard, _sha256(images, "images") if keys else None, _digest(keys)])
    return _digest(parts)


def grouped_shards(shard_id: int, *, group: int, num_shards: int) -> range:
    """Which of download's `num_shards` lie in a latent shard of `group` of them."""
    return range(shard_id * group, min((shard_id + 1) * group, num_shards))


def kept_keys(store: RunStore, ledger: Manifest) -> list[str]:
    """Keys of a shard's kept rows, in order."""
    entry = ledger.file("ledger")
    if entry is None:
        return []
    table = read_table(store, entry.path, columns=["key", "kept"])
    keys: list[str] = table.filter(table["kept"])["key"].to_pylist()
    return keys


def _sha256(manifest: Manifest, folder: str) -> str | None:
    entry = manifest.file(folder)
    return None if entry is None else entry.sha256


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
