"""A cache's own two files: recorded by the first worker, published when its step is complete."""

from pipelines.run.manifest import OtherModelsError, ShardError
from pipelines.run.store import RunStore
from sd_core.cache.samples import EmptyCaption, read_empty_caption
from sd_core.cache.spec import CacheSpec, read_spec

SPEC_FILE = "spec.json"
EMPTY_CAPTION_FILE = "empty_caption.safetensors"


def record_cache(
    store: RunStore,
    *,
    fingerprint: str,
    spec: CacheSpec,
    empty_caption: EmptyCaption,
    step: str = "encode",
) -> None:
    """Keep the spec and the empty caption beside the step's manifests; the first worker's count.

    Raises:
        ShardError: this worker makes another cache than the first one did.
    """
    path = record_path(step, fingerprint, SPEC_FILE)
    content = spec.to_json()
    if not store.create_exclusive(path, content) and store.read_bytes(path) != content:
        raise OtherModelsError(
            f"{path}: earlier shards of this run belong to another cache; put the same models "
            "back, or give another output"
        )
    store.create_exclusive(
        record_path(step, fingerprint, EMPTY_CAPTION_FILE), empty_caption.to_bytes()
    )


def publish_cache(store: RunStore, *, fingerprint: str) -> None:
    """Copy them to `latents/`, where readers look; nothing where no shard was encoded."""
    for name in (EMPTY_CAPTION_FILE, SPEC_FILE):
        try:
            content = store.read_bytes(record_path("encode", fingerprint, name))
        except FileNotFoundError:
            continue
        store.replace(f"latents/{name}", content)


def read_recorded(
    store: RunStore, *, step: str, fingerprint: str
) -> tuple[CacheSpec, EmptyCaption]:
    """What `record_cache` kept for a step.

    Raises:
        ShardError: nothing was.
    """
    path = record_path(step, fingerprint, SPEC_FILE)
    try:
        spec = read_spec(store.read_bytes(path), where=path)
        empty = store.read_bytes(record_path(step, fingerprint, EMPTY_CAPTION_FILE))
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing; run the {step} step first") from error
    return spec, read_empty_caption(empty, spec)


def record_path(step: str, fingerprint: str, name: str) -> str:
    """Where a step's record of a cache's file lies in a run."""
    return f"manifests/{step}/{fingerprint}/{name}"
