"""Write a run's kept set in a form that others read: resumable, whole or not at all, counted."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml

from pipelines.revisions.export_formats import EXPORTS, ExportedRow, ExportFormat
from pipelines.rules.conditions import Condition
from pipelines.run.checked import open_checked
from pipelines.run.manifest import ShardError, sha256_of
from pipelines.run.on_threads import in_order
from pipelines.run.reader import Run
from pipelines.run.record import read_run
from pipelines.run.revision_files import NotInRunError
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from sd_core.cache.formats import iterate_shard
from sd_core.errors import InputError
from sd_core.say import Say

RECORD_FILE: Final = "export.json"
"""Says that an export is whole, what it is of, and the hash of every file."""
_PARTS: Final = "_export"
_BEGUN: Final = f"{_PARTS}/identity.json"
_OWN = ("shard_id", "row", "key", "caption", "kept", "reason", "rule", "duplicate_of")


class ExportError(InputError):
    """The folder holds something else, or the export of another run, revision or choice."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Which rows go out, and how.

    Attributes:
        format: One of `EXPORTS`.
        where: A condition in SQL on the ledger's columns; None for every kept row.
        limit: The first so many rows; None for all.
        columns: Of the ledger; None for all but those that say which row it is and its end.
        latents: Whether each row's latents go along.
    """

    format: str
    where: str | None = None
    limit: int | None = None
    columns: tuple[str, ...] | None = None
    latents: bool = False


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What came of it: rows written, in how many shards."""

    rows: int
    shards: int


def export_run(run: Run, to: RunStore, options: ExportOptions, *, say: Say) -> Exported:
    """Write the kept rows of the run's current revision; the same call goes on after a stop.

    Raises:
        ExportError: the folder is not empty and no export of this.
        ConfigError, NotInRunError: `where` or `columns` name what is not there.
        IncompleteRunError, ShardError: the run is not complete, or damaged.
    """
    return _Export(run, to, options).write(say)


class _Export:
    def __init__(self, run: Run, to: RunStore, options: ExportOptions) -> None:
        self._run, self._to, self._options = run, to, options
        self._format: ExportFormat = EXPORTS[options.format]
        self._condition = None
        if options.where is not None:
            self._condition = Condition(options.where, where="--where")

    def write(self, say: Say) -> Exported:
        identity = self._identity()
        self._check_target(identity)
        if (done := self._whole()) is not None:
            say("nothing to do: the export is whole")
            return done
        chosen = list(self._chosen())
        total = sum(count for _, count in chosen)
        say(f"export: {total:,} rows in {len(chosen):,} shards, as {self._options.format}")
        self._to.replace(_BEGUN, _json(identity))
        parts: list[dict[str, Any]] = []
        for number, (shard_id, count) in enumerate(chosen):
            parts.append(self._part(number, len(chosen), shard_id, count))
        self._to.replace("README.md", self._card(total).encode())
        counts = {"rows": total, "shards": len(chosen)}
        record = {**identity, **counts, "files": [f for part in parts for f in part["files"]]}
        self._to.replace(RECORD_FILE, _json(record))
        self._to.delete_folder(_PARTS)
        return Exported(rows=total, shards=len(chosen))

    def _whole(self) -> Exported | None:
        """What an earlier call made, where every file of it is there."""
        record = self._read(RECORD_FILE)
        if record is None or "shards" not in record or self._read(_BEGUN) is not None:
            return None
        if not self._are_there(record["files"]):
            return None
        return Exported(rows=record["rows"], shards=record["shards"])

    def _are_there(self, files: Iterable[Mapping[str, Any]]) -> bool:
        def is_there(file: Mapping[str, Any]) -> bool:
            try:
                return bool(self._to.size(file["path"]) == file["num_bytes"])
            except FileNotFoundError:
                return False

        return all(in_order(is_there, files, num_threads=self._to.num_threads))

    def _read(self, path: str) -> dict[str, Any] | None:
        """A record of an export; raises `ExportError` where it is another's."""
        try:
            found = json.loads(self._to.read_bytes(path))
        except FileNotFoundError:
            return None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ExportError(f"--to {self._to.root}: its {path} is no export's; give a new folder")
        return found

    def _identity(self) -> dict[str, Any]:
        select = self._run.step("select").fingerprint
        names = ("format", "where", "limit", "columns", "latents")
        told = {name: getattr(self._options, name) for name in names}
        return {
            "run": self._run.path,
            "revision": self._run.revision.number,
            "select": select,
            **json.loads(json.dumps(told)),
        }

    def _check_target(self, identity: Mapping[str, Any]) -> None:
        """Raise `ExportError` unless the folder is new, or holds this export, begun or whole."""
        run, to = (os.path.normpath(each.absolute("")) for each in (self._run.store, self._to))
        if self._to.is_local == self._run.store.is_local and f"{to}/".startswith(f"{run}/"):
            raise ExportError(f"--to {self._to.root}: lies in the run; give a folder beside it")
        for path in (RECORD_FILE, _BEGUN):
            if (found := self._read(path)) is None:
                continue
            other = [name for name in identity if found.get(name) != identity[name]]
            if other:
                raise ExportError(
                    f"--to {self._to.root}: holds an export with another "
                    f"{', '.join(f'{name} ({found.get(name)!r})' for name in other)}; give a new "
                    "folder"
                )
            return
        if names := [*self._to.list_folders(""), *self._to.list_files("")]:
            raise ExportError(
                f"--to {self._to.root}: not empty: it holds {names[0]}; give a new or empty folder"
            )

    def _chosen(self) -> Iterator[tuple[int, int]]:
        """Each shard with rows that go out, and how many: the first so many that are chosen."""
        left = self._options.limit
        for shard_id in range(self._run.step("select").num_shards):
            count = len(self._keys(self._run.shard(shard_id))[:left])
            left = None if left is None else left - count
            if count:
                yield shard_id, count
            if left == 0:
                return

    def _keys(self, table: pa.Table) -> list[str]:
        """Of the rows of a shard's ledger that are kept and meet the condition, in order."""
        self._check_columns(table.schema)
        table = table.filter(table["kept"])
        if self._condition is not None and table.num_rows:
            table = table.filter(pa.array(self._condition.met(table)))
        keys: list[str] = table["key"].to_pylist()
        return keys

    def _check_columns(self, schema: pa.Schema) -> None:
        if self._condition is not None:
            self._condition.check({field.name: field.type for field in schema})
        unknown = [n for n in self._options.columns or () if n not in schema.names]
        if unknown:
            raise NotInRunError(
                f"--columns: no column {', '.join(unknown)}; allowed: {', '.join(schema.names)}"
            )

    def _part(self, number: int, shards: int, shard_id: int, count: int) -> dict[str, Any]:
        """One shard's files, written unless an earlier call did; each row once, in order."""
        path = f"{_PARTS}/{number:06d}.json"
        done = self._read(path)
        if done is not None and self._are_there(done["files"]):
            return done
        name = self._format.name(number, shards)
        table = self._run.shard(shard_id)
        keys = self._keys(table)[:count]
        fields = pa.schema(self._fields(table))
        with spool_folder() as folder:
            local = folder / "part"
            written: list[str] = []
            self._format.write(local, self._rows(table, keys, fields, written), fields)
            if written != keys:
                lost = sorted(set(keys) - set(written))
                raise ShardError(f"{self._run.path}: no image of {', '.join(lost[:3])}, kept rows")
            files = self._put(local, name)
        part = {"rows": len(keys), "files": files}
        self._to.replace(path, _json(part))
        return part

    def _put(self, local: Path, name: str) -> list[dict[str, Any]]:
        paths = sorted(p for p in local.rglob("*")) if self._format.is_folder else [local]
        files = []
        for path in paths:
            target = f"{name}/{path.relative_to(local).as_posix()}" if path != local else name
            self._to.put_file(path, target)
            files.append(
                {"path": target, "num_bytes": path.stat().st_size, "sha256": sha256_of(path)}
            )
        return files

    def _fields(self, table: pa.Table) -> list[pa.Field]:
        names = self._options.columns
        if names is None:
            names = tuple(n for n in table.column_names if n not in _OWN)
        found = [table.schema.field(name) for name in names if name not in ("key", "caption")]
        return [field.with_nullable(True) for field in found] + (
            [pa.field("latents.npy", pa.binary())] if self._options.latents else []
        )

    def _rows(
        self, table: pa.Table, keys: list[str], fields: pa.Schema, written: list[str]
    ) -> Iterator[ExportedRow]:
        shard_id = table["shard_id"][0].as_py()
        latents = self._latents(shard_id, frozenset(keys)) if self._options.latents else {}
        for image in self._run.images(keys, shards=[shard_id]):
            if self._options.latents and image.key not in latents:
                raise ShardError(f"{self._run.path}/latents: no latents of {image.key}, a kept row")
            written.append(image.key)
            yield ExportedRow(
                key=image.key,
                caption=image.caption,
                image=image.content,
                suffix=_suffix_of(image.content),
                fields={name: image.facts[name] for name in fields.names if name in image.facts},
                latents=latents.get(image.key),
            )

    def _latents(self, shard_id: int, keys: frozenset[str]) -> dict[str, npt.NDArray[Any]]:
        encode = self._run.committed("encode")
        config = read_run(self._run.store).get("config", {}).get("encode") or {}
        entry = encode.file(shard_id // config.get("download_shards_per_file", 1), "latents")
        if entry is None:
            return {}
        spec = self._run.cache().spec
        with open_checked(self._run.store, entry) as stream:
            samples = iterate_shard(stream, spec, name=entry.path)
            return {s.key: np.asarray(s.raw_latents) for s in samples if s.key in keys}

    def _card(self, rows: int) -> str:
        split = {"split": "train", "path": self._format.data_files}
        header = {
            "license": "unknown",
            "task_categories": ["text-to-image"],
            "tags": ["latent-foundry"],
            "configs": [{"config_name": "default", "data_files": [split]}],
        }
        told = yaml.safe_dump(header, sort_keys=False).rstrip()
        chosen = [f"{rows:,} kept rows of revision {self._run.revision.number} of a run"]
        if self._options.where is not None:
            chosen.append(f"where `{self._options.where}`")
        if self._options.limit is not None:
            chosen.append(f"the first {self._options.limit:,} at most")
        return (
            f"---\n{told}\n---\n# An image set, written by Latent Foundry\n\n{', '.join(chosen)}. "
            f"`{RECORD_FILE}` has the hash of every file; whose the images are is for whoever "
            "passes them on to know.\n"
        )


def _suffix_of(image: bytes) -> str:
    if image[:2] == b"\xff\xd8":
        return "jpg"
    return "png" if image[:4] == b"\x89PNG" else "webp"


def _json(tree: Mapping[str, Any]) -> bytes:
    return (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode()
