"""A cache's own two files: recorded by the first worker, published when its step is complete."""

from pipelines.run.committed import Committed
from pipelines.run.manifest import OtherModelsError, ShardError
from pipelines.run.store import RunStore
from sd_core.cache.samples import EmptyCaption, read_empty_caption
from sd_core.cache.spec import CacheSpec, read_digests, read_spec, spec_file
from sd_core.sealed import sha256_of_bytes

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
    caption = f"{made.folder}/{EMPTY_CAPTION_FILE}"
    store.create_exclusive(caption, empty_caption.to_bytes())
    content = spec_file(spec, {EMPTY_CAPTION_FILE: sha256_of_bytes(store.read_bytes(caption))})
    if not store.create_exclusive(path, content) and read_recorded(made)[0] != spec:
        raise OtherModelsError(
            f"{store.place(path)}: earlier shards of this run belong to another cache; put the "
            "same models back, or give another output"
        )


def publish_cache(encode: Committed) -> None:
    """Copy them to `latents/`, where readers look; none is there where no row was encoded.

    The spec is the last, and has the digests of all that readers start from.
    """
    store = encode.store
    if not store.exists(f"{encode.folder}/{SPEC_FILE}"):
        withdraw_cache(store)
        return
    spec, _ = read_recorded(encode)
    caption = store.read_bytes(f"{encode.folder}/{EMPTY_CAPTION_FILE}")
    store.replace(f"latents/{EMPTY_CAPTION_FILE}", caption)
    names = set(store.list_files("latents")) & {EMPTY_CAPTION_FILE, "index.parquet", "shards.txt"}
    digests = {name: sha256_of_bytes(store.read_bytes(f"latents/{name}")) for name in names}
    store.replace(f"latents/{SPEC_FILE}", spec_file(spec, digests))


def withdraw_cache(store: RunStore) -> None:
    """Take the spec away, without which no reader opens the cache."""
    store.delete(f"latents/{SPEC_FILE}")


def read_recorded(made: Committed) -> tuple[CacheSpec, EmptyCaption]:
    """What `record_cache` kept for a step.

    Raises:
        ShardError: nothing was, or the empty caption is damaged.
        CacheSpecError: the spec is.
    """
    path = f"{made.folder}/{SPEC_FILE}"
    try:
        content = made.store.read_bytes(path)
        spec = read_spec(content, where=path)
        empty = made.store.read_bytes(f"{made.folder}/{EMPTY_CAPTION_FILE}")
        digest = read_digests(content, where=path).get(EMPTY_CAPTION_FILE)
    except FileNotFoundError as error:
        raise ShardError(
            f"{made.store.place(path)}: missing; run the {made.step} step first"
        ) from error
    if digest not in (None, sha256_of_bytes(empty)):
        raise ShardError(
            f"{made.store.place(made.folder)}/{EMPTY_CAPTION_FILE}: damaged, its sha256 is not "
            f"that in {SPEC_FILE}"
        )
    return spec, read_empty_caption(empty, spec)
