"""Other cuts of the run beside the present one: with a threshold moved, or of another revision."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from functools import lru_cache
from threading import Lock
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pipelines.browse.moved import MovedRules
from pipelines.browse.table import KEPT_BY_SELECT, PLACE, Row, RowsTable
from pipelines.browse.view import Moved, View
from pipelines.rows.ledger import DUPLICATE_REASONS
from pipelines.run.checked import read_checked
from pipelines.run.committed import Committed
from pipelines.run.manifest import ShardError, manifest_path
from pipelines.run.on_threads import in_order
from pipelines.run.revision_files import NotInRunError

_COPIES: Final = ", ".join(f"'{reason}'" for reason in DUPLICATE_REASONS)
_EARLIER: Final = pa.schema(
    [
        pa.field("cut", pa.string()),
        pa.field(PLACE, pa.int64()),
        pa.field("kept", pa.bool_()),
        *(pa.field(name, pa.string()) for name in ("reason", "rule")),
    ]
)


@dataclass(frozen=True, kw_only=True)
class EarlierCut:
    """A ledger that the run still has beside the present one.

    Attributes:
        made: When it was begun, in ISO 8601, UTC; None where the store does not tell.
    """

    fingerprint: str
    kept: int
    rows: int
    made: str | None


class Cuts:
    """Which rows each of them keeps."""

    def __init__(self, table: RowsTable) -> None:
        self._table = table
        self.rules = MovedRules(table)
        self._read_in: set[str] = set()
        self._lock = Lock()
        table.add("cuts", _EARLIER.empty_table())
        self.count = lru_cache(maxsize=256)(self._count)

    def changed(self, view: View) -> tuple[str, list[Any]]:
        """The condition of rows that the other cut of a view would change, and its parameters."""
        if view.moved is not None:
            kept, given = self._kept_by(view.moved)
        else:
            self._read(view.against or "")
            kept, given = f"SELECT {PLACE} FROM cuts WHERE cut = ? AND kept", [view.against]
        if view.change == "gained":
            return f"(NOT {KEPT_BY_SELECT} AND {PLACE} IN ({kept}))", given
        return f"({KEPT_BY_SELECT} AND {PLACE} NOT IN ({kept}))", given

    def _count(self, moved: Moved) -> dict[str, int]:
        """Rows that the run would keep, and how many of these it drops now, and the other way."""
        kept, given = self._kept_by(moved)
        [(now,)] = self._table.ask(f"SELECT count(*) FROM rows WHERE {KEPT_BY_SELECT}")
        sql = f"SELECT count(*), count(*) FILTER (NOT {KEPT_BY_SELECT}) FROM rows"
        [(then, gained)] = self._table.ask(f"{sql} WHERE {PLACE} IN ({kept})", given)
        return {"now": now, "then": then, "gained": gained, "lost": now - (then - gained)}

    def _kept_by(self, moved: Moved) -> tuple[str, list[Any]]:
        """A query of the places of rows that a moved threshold would keep.

        Of a group of copies the first that passes stays, so that a copy takes the place of one
        that does not pass any more.
        """
        number = self._table.number(moved.column)
        bound, value = self._table.bound(moved.column, moved.value)
        sign = {"min": ">=", "above": ">", "max": "<=", "below": "<"}[moved.bound]
        missing = "true" if self.rules.keeps_missing(moved) else "false"
        freed = self.rules.freed(moved)
        is_candidate = (
            f"({KEPT_BY_SELECT} OR (duplicate_of IS NOT NULL AND reason IN ({_COPIES})) "
            f"OR {PLACE} IN (SELECT {PLACE} FROM freed WHERE rule = ?))"
        )
        passes = f"coalesce({number} {sign} {bound}, {missing})"
        first = f"ORDER BY {KEPT_BY_SELECT} DESC, {PLACE}) = 1"
        copies = f"QUALIFY row_number() OVER (PARTITION BY coalesce(duplicate_of, key) {first}"
        chosen = f"SELECT * FROM rows WHERE {is_candidate} AND {passes} {copies}"
        if self.rules.drops_same_bytes:
            same = f"QUALIFY row_number() OVER (PARTITION BY coalesce(sha256, key) {first}"
            chosen = f"SELECT * FROM ({chosen}) {same}"
        return f"SELECT {PLACE} FROM ({chosen})", [freed, value]

    def earlier(self) -> list[EarlierCut]:
        """Those that the run still has whole, the last first."""
        run = self._table.run
        now, found = run.step("select"), list[EarlierCut]()
        for name in run.store.list_folders("manifests/select"):
            cut = Committed(run.store, "select", name)
            with suppress(ShardError):
                manifests = list(cut.manifests(now.num_shards)) if name != now.fingerprint else []
                if manifests and self._is_there(cut):
                    kept = sum(manifest.kept for manifest in manifests)
                    rows = sum(manifest.rows_in for manifest in manifests)
                    made = self._made(name)
                    found.append(EarlierCut(fingerprint=name, kept=kept, rows=rows, made=made))
        return sorted(found, key=lambda cut: (cut.made or "", cut.fingerprint), reverse=True)

    def _is_there(self, cut: Committed) -> bool:
        entry = cut.file(0, "ledger")
        return entry is not None and self._table.run.store.exists(entry.path)

    def _made(self, fingerprint: str) -> str | None:
        store = self._table.run.store
        path = store.absolute(manifest_path("select", fingerprint, 0))
        with suppress(FileNotFoundError, NotImplementedError):
            made = store.filesystem.modified(path).astimezone(UTC)
            return str(made.isoformat(timespec="seconds"))
        return None

    def add_earlier(self, rows: list[Row], fingerprint: str) -> None:
        """Put another cut's verdict into rows, as `then`."""
        self._read(fingerprint)
        places = [row[PLACE] for row in rows]
        sql = f"SELECT {PLACE}, kept, reason, rule FROM cuts WHERE cut = ? AND {PLACE} IN "
        found = self._table.dicts(f"{sql} (SELECT unnest(?::BIGINT[]))", [fingerprint, places])
        told = {row.pop(PLACE): row for row in found}
        for row in rows:
            row["then"] = told.get(row[PLACE])

    def _read(self, fingerprint: str) -> None:
        """The verdicts of another cut, once. Raises `NotInRunError`, `ShardError`."""
        run = self._table.run
        with self._lock:
            if fingerprint in self._read_in:
                return
            if fingerprint not in run.store.list_folders("manifests/select"):
                raise NotInRunError(f"{run.path}: has no other cut {fingerprint!r}")
            self._table.add_all("cuts", self._shards_of(fingerprint))
            self._read_in.add(fingerprint)

    def _shards_of(self, fingerprint: str) -> Iterator[pa.Table]:
        run, place = self._table.run, 0
        cut = Committed(run.store, "select", fingerprint)
        for table in in_order(
            lambda shard_id: _verdicts(cut, shard_id),
            range(run.step("select").num_shards),
            num_threads=min(4, run.store.num_threads),
        ):
            places = pa.array(np.arange(place, place + table.num_rows))
            names = pa.repeat(fingerprint, table.num_rows)
            yield table.append_column(PLACE, places).append_column("cut", names)
            place += table.num_rows


def _verdicts(cut: Committed, shard_id: int) -> pa.Table:
    entry = cut.file(shard_id, "ledger")
    if entry is None:
        raise ShardError(f"select shard {shard_id} of the cut {cut.fingerprint} has no ledger")
    return read_checked(cut.store, entry, ("kept", "reason", "rule"))
