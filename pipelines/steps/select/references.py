"""Sets of pictures that a run is held against: earlier runs of ours and Parquet files."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.config import ConfigError, unreadable
from pipelines.run.committed import Committed
from pipelines.run.record import read_revision
from pipelines.run.store import RunStore, StorageError
from pipelines.steps.select.config import ReferenceConfig, ReferenceMethod
from pipelines.steps.select.facts import EMBEDDING, RunEmbeddings, embeddings_of, positions_in
from sd_core.redact import redact_url

_READ_BYTES = 1 << 20
_DIGITS = {"sha256": 64, "phash": 16}
_ROWS_AT_ONCE = 65_536


class References:
    """The rows of all reference sets, numbered in order from 0.

    Args:
        configs: Which sets, and by what each is compared.
        storage_options: Passed to fsspec.
    """

    def __init__(
        self, configs: Sequence[ReferenceConfig], storage_options: Mapping[str, Any]
    ) -> None:
        self._configs = configs
        self._sets = [_open(config.path, storage_options) for config in configs]

    def uses(self, method: ReferenceMethod) -> bool:
        """Whether a set is compared by it."""
        return any(method in config.by for config in self._configs)

    def check(self) -> None:
        """Raise `ConfigError` where a set cannot be read or lacks what it is compared by."""
        for at, (config, found) in enumerate(zip(self._configs, self._sets, strict=True)):
            lacking = set(config.by) - found.methods()
            if lacking:
                raise ConfigError(
                    f"select.duplicates.references.{at} {_shown(config.path)}: has no "
                    + ", ".join(sorted(lacking))
                )

    def digests(self) -> dict[str, str]:
        """Of what each set holds, by configuration key."""
        return {f"references.{at}": found.digest() for at, found in enumerate(self._sets)}

    def columns(self, method: ReferenceMethod) -> Iterator[tuple[int, pa.Array]]:
        """The column of that name, of the sets compared by it: number of the first row, texts.

        Raises:
            ConfigError: a value is no hash; says where.
        """
        for _, config, number, table in self._tables(method):
            if method in config.by:
                texts = _digits(table[method], method, first=number, where=_shown(config.path))
                yield number, texts

    def embeddings(self) -> Iterator[tuple[int, RunEmbeddings]]:
        """Number of the first row, and the embeddings of the rows after it."""
        for _, config, number, table in self._tables(EMBEDDING):
            if {"embedding", "phash"} & set(config.by) and EMBEDDING in table.column_names:
                numbered = table.append_column("row", pa.array(np.arange(table.num_rows)))
                rows = np.arange(table.num_rows)
                yield number, embeddings_of(numbered, rows, where=_shown(config.path))

    def names(self, numbers: Collection[int]) -> dict[int, str]:
        """What to call rows: the key (or the row's number) and the set's path."""
        wanted = np.unique(np.array(list(numbers), np.int64))
        named: dict[int, str] = {}
        if not len(wanted):
            return named
        for _, config, number, table in self._tables("key"):
            low, high = np.searchsorted(wanted, [number, number + table.num_rows])
            for at in wanted[low:high].tolist():
                known = "key" in table.column_names
                key = table["key"][at - number].as_py() if known else f"row {at - number}"
                named[at] = f"{key} of {_shown(config.path)}"
        return named

    def _tables(self, column: str) -> Iterator[tuple[int, ReferenceConfig, int, pa.Table]]:
        number = 0
        for at, (config, found) in enumerate(zip(self._configs, self._sets, strict=True)):
            for table in found.tables(column):
                yield at, config, number, table
                number += table.num_rows


@dataclass(frozen=True, kw_only=True)
class _File:
    """A Parquet file of pictures that are known by their hashes or embeddings."""

    path: str
    options: Mapping[str, Any]

    def methods(self) -> set[str]:
        with self._named(), self._open() as stream:
            return set(pq.read_schema(stream).names)

    def digest(self) -> str:
        digest = hashlib.sha256()
        with self._open() as stream:
            while content := stream.read(_READ_BYTES):
                digest.update(content)
        return digest.hexdigest()[:16]

    def tables(self, column: str) -> Iterator[pa.Table]:
        with self._open() as stream, pq.ParquetFile(stream, pre_buffer=False) as parquet:
            names = [name for name in parquet.schema_arrow.names if name == column]
            for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=names, use_threads=False):
                yield pa.Table.from_batches([batch]) if names else _rows_only(batch.num_rows)

    def _open(self) -> Any:
        with self._named():
            return fsspec.open(self.path, "rb", **self.options).open()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, ImportError, pa.ArrowException) as error:
            raise unreadable(
                error,
                f"select.duplicates.references {_shown(self.path)}: cannot be read: {error}",
            ) from None


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The kept rows of a run of ours."""

    store: RunStore

    def methods(self) -> set[str]:
        revision = read_revision(self.store)
        if "select" not in revision.steps:
            raise ConfigError(
                f"select.duplicates.references {_shown(self.store.root)}: no run with a complete "
                "ledger; give the `output` of a job, or a .parquet file"
            )
        return {"sha256", "phash"} | ({EMBEDDING} if "score" in revision.steps else set())

    def digest(self) -> str:
        self.methods()
        steps = read_revision(self.store).steps
        return ",".join(steps[name].fingerprint for name in ("select", "score") if name in steps)

    def tables(self, column: str) -> Iterator[pa.Table]:
        steps = read_revision(self.store).steps
        for shard_id in range(steps["select"].num_shards):
            asked = "key" if column == EMBEDDING else column
            ledger = self._read("select", "ledger", shard_id, ["row", "kept", asked])
            kept = ledger.filter(ledger["kept"]) if ledger is not None else None
            if kept is None or column != EMBEDDING:
                yield kept if kept is not None else _rows_only(0)
                continue
            scores = self._read("score", "facts/score", shard_id, ["row", EMBEDDING])
            if scores is None or EMBEDDING not in scores.column_names:
                yield kept
                continue
            found = scores[EMBEDDING].combine_chunks().take(positions_in(scores, kept))
            yield pa.table({EMBEDDING: found})

    def _read(self, step: str, folder: str, shard_id: int, names: list[str]) -> pa.Table | None:
        made = Committed(self.store, step, read_revision(self.store).steps[step].fingerprint)
        if made.find(shard_id) is None:
            raise ConfigError(
                f"select.duplicates.references {_shown(self.store.root)}: {step} shard {shard_id} "
                "is missing; copy the run again"
            )
        return made.table(shard_id, folder, columns=names)


def _open(path: str, options: Mapping[str, Any]) -> _File | _Run:
    if path.split("?", 1)[0].lower().endswith(".parquet"):
        return _File(path=path, options=options)
    try:
        return _Run(store=RunStore(path, options))
    except StorageError as error:
        raise ConfigError(f"select.duplicates.references: {error}") from None


def _digits(values: pa.ChunkedArray, method: str, *, first: int, where: str) -> pa.StringArray:
    """As strings, whatever texts the set has; refuses what is neither null nor so many hex digits:
    it would shift all after it."""
    digits = _DIGITS[method]
    try:
        texts = pc.cast(values, pa.string()).combine_chunks()
    except pa.ArrowException:
        raise ConfigError(
            f"select.duplicates.references {where}: {method} is {values.type}, not text"
        ) from None
    fits = pc.fill_null(pc.match_substring_regex(texts, f"^[0-9a-fA-F]{{{digits}}}$"), True)
    wrong = np.flatnonzero(~np.asarray(fits, bool))
    if len(wrong):
        at = int(wrong[0])
        raise ConfigError(
            f"select.duplicates.references {where}: {method} {texts[at].as_py()[:80]!r} in row "
            f"{first + at} of the sets; allowed are {digits} hex digits, or null ({len(wrong)} "
            "row(s) here have something else)"
        )
    return texts


def _rows_only(num_rows: int) -> pa.Table:
    """A table that says how many rows there are and nothing of them."""
    return pa.table({"nothing": pa.nulls(num_rows)})


def _shown(path: str) -> str:
    return redact_url(path)
