"""Remove what no revision of a run refers to, a while after it was first seen so.

A training run, or a reader of `shards.txt`, may still have such files open: the clock of each
starts at the first clean-up that finds it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.prompts import is_prompt_plan, load_prompt_plan
from pipelines.revisions.readers import read_shown
from pipelines.run.amendments import read_amendments
from pipelines.run.commit_log import segment_of, segment_shards
from pipelines.run.committed import Committed
from pipelines.run.crops import read_removed
from pipelines.run.on_threads import in_order
from pipelines.run.record import read_revision, read_run
from pipelines.run.store import RunStore
from pipelines.run.stored_json import read_json, write_json
from pipelines.steps.kinds import every_folder
from sd_core.say import Say

SEEN_FILE = "unreferenced.json"
_COMMITTED = re.compile(r"(\d{6}|shards)-[0-9a-f]{16}\.\w+")
_PLAN_FOLDERS = ("plan", "plan/prompts")
"""Of prompts: a growth or a takedown leaves the tables before it."""


@dataclass(kw_only=True)
class CleanUp:
    """What a clean-up did.

    Attributes:
        files: Removed now.
        num_bytes: Of them.
        waiting: Unreferenced files whose grace period is not over.
    """

    files: int = 0
    num_bytes: int = 0
    waiting: int = 0


def clean_run(
    store: RunStore, *, grace_s: float, now_s: float, say: Say, dry: bool = False
) -> CleanUp:
    """Remove unreferenced files that were seen so `grace_s` seconds ago; mark the others.

    Segments of the commit log that a complete step has lost, or that are damaged, are written anew.

    The caller holds the run's lease.

    Args:
        grace_s: 0 removes them at once.
        now_s: Seconds since the epoch.
        dry: Change nothing, and say what would go.

    Raises:
        ShardError: a manifest is damaged; nothing is removed then.
    """
    _mend_logs(store, say, dry=dry)
    live = _live_fingerprints(store)
    referenced = _referenced_files(store, live)
    seen = _read_seen(store)
    done = CleanUp()
    waiting: dict[str, float] = {}
    manifests = _dead_manifests(store, live)
    sizes = {**manifests, **_unreferenced(store, referenced)}
    torn = {path.relative_to(store.absolute("")).as_posix(): path for path in store.half_written()}
    sizes |= {name: _size(path) for name, path in torn.items()}
    gone = []
    for path, size in sizes.items():
        since = seen.get(path, now_s)
        if now_s - since < grace_s:
            waiting[path] = since
            continue
        say(f"{'would remove' if dry else 'removing'} {store.place(path)} ({size:,} bytes)")
        gone.append(path)
        done.num_bytes += size
    done.files = len(gone)
    if not dry:
        # A store removes what it is given at once in any order: no manifest outlives its files.
        store.delete_all([path for path in gone if path in manifests])
        store.delete_all([path for path in gone if path not in manifests and path not in torn])
        for path in gone:
            if path in torn:
                torn[path].unlink(missing_ok=True)
    done.waiting = len(waiting)
    if not dry:
        _write_seen(store, waiting)
    return done


def _mend_logs(store: RunStore, say: Say, *, dry: bool) -> None:
    """Write what is not as the revision has it of complete steps' logs, from the manifests."""
    for name, step in read_revision(store).steps.items():
        made = Committed(store, name, step.fingerprint)
        for path, digest in step.digests.items():
            folder, _, file = path.rpartition("/")
            number = segment_of(file)
            if folder != made.folder or number is None:
                continue
            if made.log.segment(number) and made.log.digests[path] == digest:
                continue
            read = in_order(made.read, segment_shards(number), num_threads=store.num_threads)
            manifests = [manifest for manifest in read if manifest is not None]
            if len(manifests) < len(segment_shards(number)):
                continue  # one is lost, which `verify` tells
            say(f"{'would write' if dry else 'writing'} {store.place(path)} anew")
            if not dry:
                made.log.write(number, manifests)


def _live_fingerprints(store: RunStore) -> dict[str, set[str]]:
    """Of each step: what is complete, what the last job works on, and what it takes over; of
    publish also what stands for crops that were removed."""
    live: dict[str, set[str]] = {}
    revision, recorded = read_revision(store), read_run(store).get("steps", {})
    for name, step in revision.steps.items():
        live.setdefault(name, set()).add(step.fingerprint)
    for name, step in recorded.items():
        live.setdefault(name, set()).add(step["fingerprint"])
    if (removed := read_removed(store)) is not None:
        live.setdefault("publish", set()).add(removed.publish)
    download = revision.steps.get("download")
    present = recorded.get("download", {}).get("fingerprint")
    if download is None or download.fingerprint != present:
        live.setdefault("download", set()).update(read_amendments(store).before)
    return live


def _referenced_files(store: RunStore, live: Mapping[str, set[str]]) -> set[str]:
    """With those that readers find, which a job that was killed is to replace yet."""
    files = {file.committed for file in read_shown(store).values()}
    for step, fingerprints in live.items():
        for fingerprint in fingerprints:
            made = Committed(store, step, fingerprint)
            shards = sorted(made.shards())
            for manifest in in_order(made.manifest, shards, num_threads=store.num_threads):
                files.update(entry.path for entry in manifest.files)
    if is_prompt_plan(store):
        plan = load_prompt_plan(store)
        files.update((plan.shards_path, *plan.shards["path"].to_pylist()))
    return files


def _dead_manifests(store: RunStore, live: Mapping[str, set[str]]) -> dict[str, int]:
    """First of all: what no manifest names can be missed by nobody. With their bytes."""
    found = {}
    for step in store.list_folders("manifests"):
        for fingerprint in store.list_folders(f"manifests/{step}"):
            if fingerprint not in live.get(step, ()):
                folder = f"manifests/{step}/{fingerprint}"
                sizes = store.list_sizes(folder)
                found.update({f"{folder}/{name}": sizes[name] for name in sorted(sizes)})
    return found


def _unreferenced(store: RunStore, referenced: set[str]) -> dict[str, int]:
    plan = _PLAN_FOLDERS if is_prompt_plan(store) else ()
    found = {}
    for folder in (*every_folder(), *plan):
        for name, size in sorted(store.list_sizes(folder).items()):
            path = f"{folder}/{name}"
            if _COMMITTED.fullmatch(name) and path not in referenced:
                found[path] = size
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read_seen(store: RunStore) -> dict[str, float]:
    try:
        return read_json(store, SEEN_FILE)
    except FileNotFoundError:
        return {}


def _write_seen(store: RunStore, seen: Mapping[str, float]) -> None:
    if seen:
        write_json(store, SEEN_FILE, seen)
    else:
        store.delete(SEEN_FILE)
