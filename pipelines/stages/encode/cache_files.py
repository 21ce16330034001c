"""The cache's own two files: recorded by the first worker, published when encode is complete."""

from pipelines.manifest import ShardError
from pipelines.storage import RunStore
from sd_core.cache.samples import EmptyCaption
from sd_core.cache.spec import CacheSpec

SPEC_FILE = "spec.json"
EMPTY_CAPTION_FILE = "empty_caption.safetensors"


def record_cache(
    store: RunStore, *, fingerprint: str, spec: CacheSpec, empty_caption: EmptyCaption
) -> None:
    """Keep the spec and the empty caption beside the step's manifests; the first worker's count.

    Raises:
        ShardError: this worker makes another cache than the first one did.
    """
    path = _record_path(fingerprint, SPEC_FILE)
    content = spec.to_json()
    if not store.create_exclusive(path, content) and store.read_bytes(path) != content:
        raise ShardError(
            f"{path}: earlier shards of this run belong to another cache; put the same models "
            "back, or give another output"
        )
    store.create_exclusive(_record_path(fingerprint, EMPTY_CAPTION_FILE), empty_caption.to_bytes())


def publish_cache(store: RunStore, *, fingerprint: str) -> None:
    """Copy them to `latents/`, where readers look; nothing where no shard was encoded."""
    for name in (EMPTY_CAPTION_FILE, SPEC_FILE):
        try:
            content = store.read_bytes(_record_path(fingerprint, name))
        except FileNotFoundError:
            continue
        store.replace(f"latents/{name}", content)


def _record_path(fingerprint: str, name: str) -> str:
    return f"manifests/encode/{fingerprint}/{name}"
