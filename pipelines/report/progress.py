"""How fast the images came, by the times at which storage says their shards were committed."""

from dataclasses import dataclass

from pipelines.manifest import manifest_path, read_manifest
from pipelines.report.ledgers import Ledgers


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A shard: seconds after the first one, its rows, and those that have an image."""

    after_s: float
    rows: int
    images: int


def read_commits(ledgers: Ledgers) -> list[Commit]:
    """The shards of the first step in the order of their commits; empty where no time is known."""
    store, step = ledgers.store, ledgers.revision.steps[ledgers.origin]
    found = []
    for shard_id in range(step.num_shards):
        manifest = read_manifest(store, ledgers.origin, step.fingerprint, shard_id)
        if manifest is None:
            continue
        path = manifest_path(ledgers.origin, step.fingerprint, shard_id)
        try:
            time_s = store.filesystem.modified(store.absolute(path)).timestamp()
        except (NotImplementedError, KeyError, FileNotFoundError, AttributeError):
            return []
        found.append((time_s, manifest.rows_in, manifest.kept))
    found.sort()
    return [
        Commit(after_s=time_s - found[0][0], rows=rows, images=images)
        for time_s, rows, images in found
    ]
