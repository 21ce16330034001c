"""The files of a run's current revision: which there are, and their tables."""

import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import pyarrow as pa

from pipelines.run.checked import read_checked
from pipelines.run.committed import Committed
from pipelines.run.manifest import FileEntry, ShardError
from pipelines.run.record import Revision, StepSummary, read_revision
from pipelines.run.store import RunStore
from pipelines.run.tables import read_parquet
from sd_core.errors import InputError, is_environment
from sd_core.redact import redact_url
from sd_core.sealed import sha256_of_bytes

ORIGINS: Final = ("download", "generate")
"""The steps that make a run's images; a run has one of them."""


def origin_of(steps: Iterable[str]) -> str | None:
    """Which of the named steps makes the run's images; None where none of them does."""
    return next((name for name in steps if name in ORIGINS), None)


class IncompleteRunError(InputError):
    """What is asked for is made by a step that is not complete; says which."""


class NotInRunError(InputError, LookupError):
    """A run has no such row, column or folder; says what was looked for."""


@dataclass(frozen=True)
class RevisionFiles:
    """Reads from the manifests of one revision: that which is current when it is first asked for.

    A job that goes on meanwhile changes nothing of what is read here.
    """

    store: RunStore
    known: tuple[Committed, ...] = field(default=(), repr=False)
    """Of which a job holds the manifests in memory."""

    @property
    def path(self) -> str:
        """Where it is, without a user or a password."""
        return redact_url(self.store.root)

    @cached_property
    def revision(self) -> Revision:
        """What is complete: of each step rows in, kept and dropped by reason."""
        return read_revision(self.store)

    @property
    def origin(self) -> str:
        """The step that made the images: `download` of a curated run, `generate` of a generated."""
        found = origin_of(self.revision.steps)
        if found is None:
            raise IncompleteRunError(f"{self.path}: no step is complete yet; run the job again")
        return found

    def step(self, name: str) -> StepSummary:
        """The counts of a complete step; raises `IncompleteRunError`."""
        if name not in self.revision.steps:
            raise IncompleteRunError(f"{self.path}: {name} is not complete; run the job again")
        return self.revision.steps[name]

    def table(self, folder: str, columns: Collection[str] | None = None) -> pa.Table:
        """The Parquet files of a folder as one table, in the order of the shards.

        Args:
            folder: `facts/download`, `facts/generate`, `facts/score`, `metadata` of a generated
                run, `ledger` (as select wrote it), or `rejects` of the last steps.
            columns: Only these; all by default.

        Raises:
            IncompleteRunError: its step is not complete.
            NotInRunError: there is no such folder or column.
            ShardError: a file is missing or damaged.
        """
        return self.join(
            [self.read_table(entry, columns) for entry in self.files(folder)],
            columns,
            folder=folder,
        )

    def paths(self, folder: str) -> list[str]:
        """A folder's files of this revision, relative to the run; errors are those of `table`."""
        return [entry.path for entry in self.files(folder)]

    def files(self, folder: str) -> list[FileEntry]:
        """As `paths`, with what the manifests say of each."""
        files, name = list(self.iterate_files(folder)), self._step_of(folder)
        if not files and self.step(name).kept and not folder.endswith("/rejects"):
            raise NotInRunError(f"{self.path}: {name} wrote nothing into {folder!r}")
        return files

    def iterate_files(self, folder: str) -> Iterator[FileEntry]:
        """As `files`, one by one."""
        name = self._step_of(folder)
        if (listed := self._listed(folder, self.step(name))) is not None:
            return iter(listed)
        manifests = self.committed(name).manifests(self.step(name).num_shards)
        return (entry for each in manifests if (entry := each.file(folder)) is not None)

    def _listed(self, folder: str, step: StepSummary) -> list[FileEntry] | None:
        """By the folder's index; None where that is not the one of this revision."""
        path = f"{folder}/index.parquet"
        if path not in step.digests:
            return None
        try:
            content = self.store.read_bytes(path)
        except FileNotFoundError:
            return None
        if sha256_of_bytes(content) != step.digests[path]:
            return None
        rows = read_parquet(io.BytesIO(content)).drop_columns("shard_id").to_pylist()
        return [FileEntry.of_tree(row) for row in rows]

    def committed(self, name: str) -> Committed:
        """What a complete step committed; raises `IncompleteRunError`."""
        asked = Committed(self.store, name, self.step(name).fingerprint)
        return self._made.setdefault(name, next((k for k in self.known if k == asked), asked))

    @cached_property
    def _made(self) -> dict[str, Committed]:
        return {}

    def _step_of(self, folder: str) -> str:
        """Which step writes a folder: by `facts/<step>`, or one of the others' by name."""
        first, _, rest = folder.partition("/")
        if first == "facts" and (name := rest.partition("/")[0]) in self.revision.steps:
            return name
        return {"ledger": "select", "latents": "encode"}.get(first) or self.origin

    def read_table(self, entry: FileEntry, columns: Iterable[str] | None = None) -> pa.Table:
        """A Parquet file; of the columns those that it has, as older versions wrote fewer."""
        with self.whole(entry.path):
            return read_checked(self.store, entry, columns)

    @contextmanager
    def whole(self, path: str) -> Iterator[None]:
        """Tells of a file that is not there, or damaged, by its path."""
        try:
            yield
        except FileNotFoundError as error:
            raise ShardError(
                f"{self.store.told(path)}: missing; open the run again, or verify it"
            ) from error
        except (OSError, pa.ArrowException) as error:
            if is_environment(error):
                raise
            raise ShardError(f"{self.store.told(path)}: damaged: {error}") from error

    def join(
        self, tables: Sequence[pa.Table], columns: Collection[str] | None, *, folder: str
    ) -> pa.Table:
        """Tables of a folder as one: null where one of them lacks a column of the others."""
        table = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
        if columns is None:
            return table
        if missing := [name for name in columns if name not in table.column_names]:
            raise NotInRunError(
                f"{self.path}/{folder}: no column {', '.join(missing)}; leave `columns` out to see "
                "what there is"
            )
        return table.select(list(columns))
