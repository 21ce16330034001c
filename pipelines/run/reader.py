"""Read what a run holds: its current revision alone, local or on an object store."""

import io
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.run.crops import open_images
from pipelines.run.folder import require_run
from pipelines.run.images import decode_crop, iterate_encoded
from pipelines.run.manifest import FileEntry, ShardError
from pipelines.run.record import NotARunError, read_run
from pipelines.run.revision_files import NotInRunError, RevisionFiles
from pipelines.run.shard_inputs import grouped_shards
from pipelines.run.store import RunStore
from sd_core.cache.latent_cache import LatentCache, open_cache
from sd_core.cache.reading import iterate_samples
from sd_core.cache.samples import LatentSample
from sd_core.home import expand_home
from sd_core.redact import redact_url

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

_END = ("shard_id", "key", "kept")
EVERY = "*"  # no key


@dataclass(frozen=True, kw_only=True)
class RunImage:
    """A stored image and what is known of its row.

    Attributes:
        key: The row's key.
        caption: The text of the list, or the prompt; None where the list has none.
        content: The file as it is stored: JPEG, PNG or WebP.
        facts: The row of the ledger, by column.
    """

    key: str
    caption: str | None
    content: bytes = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)

    @property
    def pixels(self) -> "npt.NDArray[np.uint8]":
        """(H, W, 3) uint8 RGB, decoded as for the models; raises `ShardError`."""
        return decode_crop(self.content, self.key)

    def open(self) -> "Image.Image":
        """The image as Pillow opens it, with what is written in the file (`info`)."""
        from PIL import Image

        return Image.open(io.BytesIO(self.content))


@dataclass(frozen=True, repr=False)
class Run(RevisionFiles):
    """One revision of a run: that which is current when the run is opened.

    A job that goes on meanwhile changes nothing of what is read here. A clean-up after it removes
    the files of this revision (24 hours later, where nothing else is asked for); `ShardError` then
    says that they are missing: open the run again.
    """

    def opened(self) -> Self:
        """The same, its revision read now and not when it is first asked for."""
        assert self.revision is not None
        return self

    def __repr__(self) -> str:
        what = "" if self.revision.steps else ", of which nothing is complete"
        return f"<Run {self.path}, revision {self.revision.number}{what}>"

    def ledger(self, columns: Collection[str] | None = None) -> pa.Table:
        """Every row of the list in its order, each once, with its end.

        Where encode refused a row that select had kept, `kept` is false here and `reason` and
        `error_message` are encode's, so that `kept` says the same as `kept()`, and as `latents()`
        of a run with a cache. (The files in `ledger/` have select's verdict.)

        Args:
            columns: Only these; all by default: those of `pipelines.rows.ledger.LEDGER`
                (`shard_id` and `row` int32, `key` `url` `caption` `status` `reason` `rule` string,
                `kept` bool, sizes int32, scores float32, null where they were not asked for), of a
                generated run also `GENERATION_FIELDS`, then the list's own as `source_<name>`.

        Raises:
            IncompleteRunError: select is not complete.
            NotInRunError: there is no such column.
            ShardError: a file is missing or damaged.
        """
        return self.join(list(self._ends(columns)), columns, folder="ledger")

    def kept(self, columns: Collection[str] | None = None) -> pa.Table:
        """The rows of `ledger()` that are kept; arguments and errors are the same."""
        tables = [table.filter(table["kept"]) for table in self._ends(columns)]
        return self.join(tables, columns, folder="ledger")

    def row(self, url_or_key: str) -> dict[str, Any]:
        """What became of a row: its columns in `ledger()`.

        Of several rows with this URL or key (a URL with two captions, a row that is twice in the
        list) a kept one, else the first of the list.

        Args:
            url_or_key: The URL as it stands in the list, or the key.

        Raises:
            NotInRunError: the list has no such row, or it was taken down.
            IncompleteRunError, ShardError: as for `ledger`.
        """
        url, first = redact_url(url_or_key), None
        for entry in self._ledger_files:
            names = self.read_table(entry, ["key", "url"])
            found = pc.or_kleene(
                pc.equal(names["key"], url_or_key),
                pc.is_in(names["url"], pa.array([url, url_or_key], pa.string())),
            )
            if not pc.any(found).as_py():
                continue
            for row in self._end(self.read_table(entry).filter(found)).to_pylist():
                if row["kept"]:
                    return dict(row)
                first = first or dict(row)
        if first is None:
            raise NotInRunError(f"{self.path}: no row of its list has the URL or key {url}")
        return first

    def row_at(self, shard_id: int, row: int) -> dict[str, Any]:
        """What became of a row, by its number; returns and raises as `row`."""
        files = self._ledger_files
        if shard_id < len(files):
            table = self.read_table(files[shard_id])
            for found in self._end(table.filter(pc.equal(table["row"], row))).to_pylist():
                return dict(found)
        raise NotInRunError(f"{self.path}: no row {row} in a shard {shard_id} of {len(files)}")

    def shard(self, shard_id: int) -> pa.Table:
        """The rows of one shard of `ledger()`, with every column."""
        return self._end(self.read_table(self._ledger_files[shard_id]))

    def images(
        self,
        keys: Collection[str] | None = None,
        *,
        dropped: bool = False,
        shards: Collection[int] | None = None,
    ) -> Iterator[RunImage]:
        """The images of the kept rows, in the order of the list, streaming.

        Args:
            keys: Only of these rows; tars without one of them are not opened.
            dropped: Also of rows that were dropped after there was an image, as far as they are
                there: `clean --crops` removes them.
            shards: Only of these shards of the ledger.

        Raises:
            IncompleteRunError: select is not complete.
            ShardError: a tar is missing or damaged, or lacks the image of a kept row.
        """
        asked = None if keys is None else frozenset(keys)
        for table in self._ends(shards=shards):
            has_image = pc.fill_null(pc.equal(table["status"], "success"), False)
            chosen = table.filter(pc.or_(table["kept"], has_image) if dropped else table["kept"])
            rows = {
                row["key"]: row
                for row in chosen.to_pylist()
                if asked is None or row["key"] in asked
            }
            if rows:
                yield from self._stored(table["shard_id"][0].as_py(), rows)

    def latents(self) -> Iterator[LatentSample]:
        """The rows of the latent cache, streaming; none where it holds none.

        In the order of the list in a curated run; of a generated one, shard by shard, in the order
        in which they were made.

        Each has `key`, `caption`, `raw_latents` (C, h, w), or (2C, h, w) moments, unscaled, in the
        dtype that the cache's spec says, `input_ids` (L,) int32, `prompt_embeds` (L, D) or None,
        and `attributes`. `cache()` has the spec.

        Raises:
            IncompleteRunError, CacheSpecError, CacheShardError, ShardError: as for `cache`.
        """
        return iterate_samples(self.cache()) if self.step("encode").kept else iter(())

    def cache(self) -> LatentCache:
        """The latent cache, as `sd_core.open_cache` opens it.

        Raises:
            IncompleteRunError: encode is not complete.
            CacheSpecError, CacheShardError: a file of it is missing or damaged, or it has no rows.
            ShardError: it is not of this revision any more.
        """
        current = {entry.sha256 for entry in self.files("latents")}
        cache = open_cache(f"{self.store.root}/latents", storage_options=self.store.storage_options)
        if not current.issuperset(shard.sha256 for shard in cache.shards):
            raise ShardError(f"{self.path}/latents: changed since the run was opened; open it anew")
        return cache

    def _ends(
        self, columns: Collection[str] | None = None, *, shards: Collection[int] | None = None
    ) -> Iterator[pa.Table]:
        """The ledger, a shard at a time, with at least these columns and `_END`."""
        asked = None if columns is None else dict.fromkeys([*columns, *_END])
        for shard_id, entry in enumerate(self._ledger_files):
            if shards is None or shard_id in shards:
                yield self._end(self.read_table(entry, asked))

    @cached_property
    def _ledger_files(self) -> list[FileEntry]:
        """By shard; the manifests are read once."""
        return self.files("ledger")

    def _end(self, table: pa.Table) -> pa.Table:
        """Select's verdicts on rows of one shard with what encode refused of them."""
        refused = self.refused.get(table["shard_id"][0].as_py()) if table.num_rows else None
        if not refused:
            return table
        rows = table.to_pylist()
        for row in rows:
            end = refused.get(row["key"]) or refused.get(EVERY)
            if row["kept"] and end is not None:
                row.update(end, kept=False)
        return pa.Table.from_pylist(rows, schema=table.schema)

    @cached_property
    def refused(self) -> dict[int, dict[str, dict[str, Any]]]:
        """Reason and error of what encode refused, by shard of the ledger and key.

        A shard that it gave up has one for `EVERY` key.
        """
        found: dict[int, dict[str, dict[str, Any]]] = {}
        encode = self.revision.steps.get("encode")
        if encode is None or not encode.dropped:
            return found
        for row in self.table("latents/rejects").to_pylist():
            end = {name: row[name] for name in ("reason", "error_message")}
            found.setdefault(row["shard_id"], {})[row["key"]] = end
        config = read_run(self.store).get("config", {}).get("encode") or {}
        for shard_id in encode.quarantined:
            error = self.committed("encode").manifest(shard_id).quarantined
            end = {"reason": "shard_quarantined", "error_message": error}
            for source in grouped_shards(
                shard_id,
                group=config.get("download_shards_per_file", 1),
                num_shards=self.step("select").num_shards,
            ):
                found.setdefault(source, {})[EVERY] = end
        return found

    def _stored(self, shard_id: int, rows: dict[str, dict[str, Any]]) -> Iterator[RunImage]:
        """The images of these rows of a shard, by key; takes from `rows` what is found."""
        crops = self.committed(self.origin).file(shard_id, "images")
        path = crops.path if crops else ""
        with self.whole(path), open_images(self.store, crops) as found:
            if found is None:
                if any(facts["kept"] for facts in rows.values()):
                    raise ShardError(f"{self.path}: {self.origin} shard {shard_id} has no images")
                return
            path = found[0].path
            for key, content in iterate_encoded(found[1], found[0]):
                if (facts := rows.pop(key, None)) is not None:
                    yield RunImage(key=key, caption=facts["caption"], content=content, facts=facts)
                if not rows:
                    return
        if lost := [key for key, facts in rows.items() if facts["kept"]]:
            raise ShardError(f"{self.store.told(path)}: no image of {lost[0]}, which is kept")


def open_run(
    path: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> Run:
    """Open a curated or generated run for reading.

    Args:
        path: Its folder: on this machine, or any fsspec URL (`s3://bucket/run`).
        storage_options: Passed to fsspec; by default a store is opened by its own environment
            variables (AWS_*, FSSPEC_*).

    Raises:
        NotARunError: there is no run, or one of training.
        StorageError, EnvironmentFault: the folder cannot be reached.
    """
    root = expand_home(os.fspath(path))
    store = RunStore(root if "://" in root else os.path.abspath(root), dict(storage_options or {}))
    require_run(store)
    run = Run(store)
    if read_run(store).get("job") == "train":
        raise NotARunError(f"{run.path}: a training; give a curated or a generated run")
    return run.opened()
