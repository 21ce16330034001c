"""A cache's own two files: recorded by the first worker, published when its step is complete."""

from pipelines.run.committed import Committed
from pipelines.run.manifest import OtherModelsError, ShardError
from sd_core.cache.samples import EmptyCaption, read_empty_caption
from sd_core.cache.spec import CacheSpec, read_spec

LATENTS_FOLDER = "facts/latents"
"""Where generate keeps the latents of its images, until encode takes the kept ones over."""
SPEC_FILE = "spec.json"
EMPTY_CAPTION_FILE = "empty_caption.safetensors"


def record_cache(made: Committed, *, spec: CacheSpec, empty_caption: EmptyCaption) -> None:
    """Keep the spec and the empty caption beside the step's manifests; the first worker's count.

    Raises:
        ShardError: this worker makes another cache than the first one did.
    """
    store, path = made.store, f"{made.folder}/{SPEC_FILE}"
    content = spec.to_json()
    if not store.create_exclusive(path, content) and store.read_bytes(path) != content:
        raise OtherModelsError(
            f"{path}: earlier shards of this run belong to another cache; put the same models "
            "back, or give another output"
        )
    store.create_exclusive(f"{made.folder}/{EMPTY_CAPTION_FILE}", empty_caption.to_bytes())


def publish_cache(encode: Committed) -> None:
    """Copy them to `latents/`, where readers look; nothing where no shard was encoded."""
    for name in (EMPTY_CAPTION_FILE, SPEC_FILE):
        try:
            content = encode.store.read_bytes(f"{encode.folder}/{name}")
        except FileNotFoundError:
            continue
        encode.store.replace(f"latents/{name}", content)


def read_recorded(made: Committed) -> tuple[CacheSpec, EmptyCaption]:
    """What `record_cache` kept for a step.

    Raises:
        ShardError: nothing was.
    """
    path = f"{made.folder}/{SPEC_FILE}"
    try:
        spec = read_spec(made.store.read_bytes(path), where=path)
        empty = made.store.read_bytes(f"{made.folder}/{EMPTY_CAPTION_FILE}")
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing; run the {made.step} step first") from error
    return spec, read_empty_caption(empty, spec)
