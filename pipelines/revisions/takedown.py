"""Take rows out of a curated run: a new revision without them, and tombstones that keep them out.

Of a row only its number is left, with the reason `taken_down` and a digest in place of its key.
Rows whose originals have the same bytes go with it.
Shards without such rows are taken over as they are. The old revision's files stay until a
clean-up, so that nobody's training loses its files in the middle.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.cache_files import publish_cache, read_recorded
from pipelines.config import ConfigError
from pipelines.manifest import Manifest, committed_shards, create_manifest, read_manifest
from pipelines.plan import load_plan
from pipelines.revisions.adopt import copy_records
from pipelines.revisions.edition import Edition, read_edition, write_edition
from pipelines.revisions.identities import recorded_steps, with_edition
from pipelines.revisions.rewrite import (
    Target,
    names_any,
    rewrite_download,
    rewrite_latents,
    rewrite_ledger,
    rewrite_scores,
)
from pipelines.revisions.tombstones import (
    Tombstones,
    digest_of,
    masked_key,
    read_tombstones,
    url_digest,
    write_tombstones,
)
from pipelines.run import (
    CURATE_FOLDERS,
    StepIdentity,
    complete_step,
    read_revision,
    read_run,
    write_run,
)
from pipelines.shard_inputs import encode_inputs, grouped_shards, score_inputs
from pipelines.storage import RunStore
from pipelines.tables import read_table

_MADE_OF_THE_RUN = ("report/index.html", "README.md")
_NAMES = ["row", "key", "url", "final_url", "sha256"]


@dataclass(kw_only=True)
class Takedown:
    """What was done.

    Attributes:
        rows: Taken down by this call.
        shards: Downloaded shards that held them.
        masked: What stands for the key of each of the rows.
    """

    rows: int = 0
    shards: int = 0
    masked: dict[str, str] = field(default_factory=dict)


def take_down(store: RunStore, asked: Tombstones, *, say: Callable[[str], None]) -> Takedown:
    """Make a revision without the rows that are asked for; finishes one that was interrupted.

    The caller holds the run's lease.

    Raises:
        ConfigError: it is not a curated run, or a retry or growth of it is under way.
        ShardError: a shard is damaged.
    """
    run, edition = read_run(store), read_edition(store)
    old = recorded_steps(store, run)
    _check_whole(store, edition, old)
    stones = _with_their_copies(store, old["download"], asked | read_tombstones(store))
    if not stones:
        raise ConfigError("nothing to take down: the lists are empty")
    edition = replace(edition, tombstones=stones.digest, before=None, fetches_again=False)
    new = with_edition(old, edition)
    if new == old:
        say("nothing to do: all of it is taken down already")
        return Takedown()
    write_tombstones(store, stones)
    write_edition(store, edition)
    work = _Work(store=store, old=old, new=new, stones=stones, run=run)
    done = work.run_all()
    for step in new.values():
        work.complete(step)
    for name in _MADE_OF_THE_RUN:
        store.delete(name)
    steps = {
        name: {"fingerprint": step.fingerprint, "options": step.options}
        for name, step in new.items()
    }
    # The last of all: until then the same command, or the job, does it again from the old ones.
    write_run(store, {**run, "steps": {**run["steps"], **steps}})
    return done


def finish_takedown(store: RunStore, *, say: Callable[[str], None]) -> None:
    """Finish a takedown that was killed; the caller holds the run's lease."""
    recorded = read_run(store).get("steps", {}).get("download", {}).get("options", {})
    tombstones = read_edition(store).tombstones
    if recorded and recorded.get("edition", {}).get("tombstones") != tombstones:
        say("finishing a takedown that was interrupted")
        take_down(store, Tombstones(), say=say)


def _check_whole(store: RunStore, edition: Edition, old: Mapping[str, StepIdentity]) -> None:
    download = read_revision(store).steps.get("download")
    is_whole = download is not None and download.fingerprint == old["download"].fingerprint
    if edition.before is not None and not is_whole:
        raise ConfigError(
            f"{store.root}: a retry or growth is not complete; run the job again to finish it, "
            "then take down"
        )


def _with_their_copies(store: RunStore, download: StepIdentity, asked: Tombstones) -> Tombstones:
    """The tombstones, the contents of the rows that they hide, and the URLs of all of these."""
    contents: set[str] = set()
    for row in _hidden_rows(store, download, asked):
        if row["sha256"] is not None:
            contents.add(digest_of("sha256", row["sha256"]))
    stones = asked | Tombstones(sha256=frozenset(contents))
    urls: set[str] = set()
    keys: set[str] = set()
    for row in _hidden_rows(store, download, stones):
        if row["url"] is None:
            keys.add(digest_of("keys", row["key"]))
        urls.update(url_digest(url) for url in (row["url"], row["final_url"]) if url)
    return stones | Tombstones(keys=frozenset(keys), urls=frozenset(urls))


def _hidden_rows(
    store: RunStore, download: StepIdentity, stones: Tombstones
) -> Iterator[dict[str, Any]]:
    for shard_id in sorted(committed_shards(store, "download", download.fingerprint)):
        manifest = read_manifest(store, "download", download.fingerprint, shard_id)
        entry = manifest.file("facts/download") if manifest is not None else None
        if entry is not None:
            facts = read_table(store, entry.path, columns=_NAMES)
            yield from facts.filter(pa.array(stones.hides(facts))).to_pylist()


@dataclass(kw_only=True)
class _Work:
    """Every shard of every step, from the old identities to the new ones."""

    store: RunStore
    old: Mapping[str, StepIdentity]
    new: Mapping[str, StepIdentity]
    stones: Tombstones
    run: Mapping[str, Any]
    done: Takedown = field(default_factory=Takedown)

    def run_all(self) -> Takedown:
        for name, step in self.old.items():
            copy_records(self.store, name, step.fingerprint, self.new[name].fingerprint)
        for shard_id in self._shards("download"):
            self._download(shard_id)
        for name, rewrite in (("select", self._select), ("encode", self._encode)):
            for shard_id in self._shards(name):
                rewrite(shard_id)
        return self.done

    def _shards(self, step: str) -> list[int]:
        if step not in self.old:
            return []
        return sorted(committed_shards(self.store, step, self.old[step].fingerprint))

    def _read(self, step: str, shard_id: int) -> Manifest | None:
        if step not in self.old:
            return None
        return read_manifest(self.store, step, self.old[step].fingerprint, shard_id)

    def _take_over(self, manifest: Manifest) -> None:
        fingerprint = self.new[manifest.step].fingerprint
        create_manifest(self.store, replace(manifest, fingerprint=fingerprint))

    def _target(self, step: str, inputs: str | None = None) -> Target:
        fingerprint = self.new[step].fingerprint
        return Target(store=self.store, fingerprint=fingerprint, inputs=inputs)

    def _download(self, shard_id: int) -> None:
        manifest, score = self._read("download", shard_id), self._read("score", shard_id)
        assert manifest is not None
        entry = manifest.file("facts/download")
        facts = read_table(self.store, entry.path) if entry is not None else None
        hidden = self.stones.hides(facts) if facts is not None else np.zeros(0, np.bool_)
        if facts is not None:
            self._count(facts, hidden)
        if facts is None or not hidden.any():
            self._take_over(manifest)
        else:
            rewrite_download(self._target("download"), manifest, facts, hidden)
        if score is None:
            return
        if facts is None or not hidden.any() or score.quarantined is not None:
            self._take_over(score)
            return
        inputs = score_inputs(
            self.store,
            options=self.new["score"].options_digest,
            origin="download",
            images=self.new["download"].fingerprint,
            shard=shard_id,
        )
        rows = np.asarray(facts["row"])[hidden]
        rewrite_scores(self._target("score", inputs), score, rows)

    def _count(self, facts: pa.Table, hidden: np.ndarray) -> None:
        for key in facts.filter(pa.array(hidden))["key"].to_pylist():
            self.done.masked[key] = masked_key(key)
        self.done.rows += int(hidden.sum())
        self.done.shards += bool(hidden.any())

    def _select(self, shard_id: int) -> None:
        manifest = self._read("select", shard_id)
        assert manifest is not None
        entry = manifest.file("ledger")
        if entry is None:
            self._take_over(manifest)
            return
        ledger = read_table(self.store, entry.path)
        hidden = self.stones.hides(ledger)
        if hidden.any() or names_any(ledger, self.done.masked):
            target = self._target("select")
            rewrite_ledger(target, manifest, ledger, hidden, masked=self.done.masked)
        else:
            self._take_over(manifest)

    def _encode(self, shard_id: int) -> None:
        manifest = self._read("encode", shard_id)
        assert manifest is not None
        inputs = encode_inputs(
            self.store,
            options=self.new["encode"].options_digest,
            download=self.new["download"].fingerprint,
            select=self.new["select"].fingerprint,
            shards=grouped_shards(
                shard_id,
                group=self._group,
                num_shards=len(self._shards("download")),
            ),
        )
        if manifest.quarantined is not None or inputs == manifest.inputs:
            self._take_over(manifest)
            return
        encode = self.old["encode"].fingerprint
        spec, _ = read_recorded(self.store, step="encode", fingerprint=encode)
        target = self._target("encode", inputs)
        rewrite_latents(target, manifest, spec, gone=self.done.masked)

    def complete(self, step: StepIdentity) -> None:
        """Make a step current if every shard of it is there, as it was."""
        num_shards = load_plan(self.store).num_shards
        if step.step == "encode":
            num_shards = -(-num_shards // self._group)
        if len(committed_shards(self.store, step.step, step.fingerprint)) < num_shards:
            return
        is_encode = step.step == "encode"
        complete_step(
            self.store,
            step,
            num_shards=num_shards,
            folders=CURATE_FOLDERS[step.step],
            publish=lambda: (
                publish_cache(self.store, fingerprint=step.fingerprint) if is_encode else None
            ),
        )

    @property
    def _group(self) -> int:
        return int(self.run["config"]["encode"]["download_shards_per_file"])
