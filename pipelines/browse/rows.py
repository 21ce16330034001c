"""Which rows a view has, and what is shown of each."""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipelines.browse.cuts import Cuts
from pipelines.browse.table import PLACE, RULE, STEP, Row, RowsTable
from pipelines.browse.view import View, Where
from pipelines.rows.ledger import GENERATION_FIELDS, SCORES
from sd_core.redact import redact_url

_VIEWS_HELD: Final = 16
_SEARCHED: Final = ("caption", "recaption", "url", "key", "prompt_key")
_WHOLE: Final = ("key", "duplicate_of", "prompt_key")
_CARD_CHARS: Final = 500
_ON_A_CARD: Final = (
    *(PLACE, STEP, RULE, "key", "caption", "url", "kept", "reason", "rule", "duplicate_of"),
    *("error_message", "width", "height", "sha256", "recaption"),
    *SCORES,
    *(field.name for field in GENERATION_FIELDS),
)


class Rows:
    """Answers views by the numbers of their rows, in order, of which it holds the last ones."""

    def __init__(self, table: RowsTable, cuts: Cuts) -> None:
        self._table, self._cuts = table, cuts
        self._held: OrderedDict[str, npt.NDArray[np.int64]] = OrderedDict()
        self._lock = Lock()

    def places(self, view: View) -> npt.NDArray[np.int64]:
        """The place of each of its rows; raises `NotInRunError` for a column that is none."""
        name = view.model_dump_json()
        with self._lock:
            if name in self._held:
                self._held.move_to_end(name)
                return self._held[name]
        tests, given = self.condition(view)
        order = PLACE
        if view.sort is not None:
            is_number = self._table.is_number(view.sort)
            by = (self._table.number if is_number else self._table.column)(view.sort)
            order = f"{by} {'DESC' if view.descending else 'ASC'} NULLS LAST, {PLACE}"
        elif view.descending:
            order = f"{PLACE} DESC"
        sql = f"SELECT {PLACE} FROM rows WHERE {tests} ORDER BY {order}"
        found = self._table.places(sql, given)
        with self._lock:
            self._held[name] = found
            while len(self._held) > _VIEWS_HELD:
                self._held.popitem(last=False)
        return found

    def page(self, view: View, *, offset: int, limit: int) -> tuple[int, list[Row]]:
        """How many rows a view has, and so many of them from `offset` on."""
        places = self.places(view)
        further = [w.column for w in view.where] + [view.sort or "", view.moved_column]
        rows = self.cards(places[offset : offset + limit].tolist(), further)
        if view.against is not None:
            self._cuts.add_earlier(rows, view.against)
        return len(places), rows

    def cards(self, places: Sequence[int], further: Sequence[str] = ()) -> list[Row]:
        """What a card shows of rows, in their order, with these columns besides."""
        names = dict.fromkeys((*_ON_A_CARD, *self._table.scores, *further))
        chosen = ", ".join(self._short(name) for name in names if name in self._table.types)
        sql = f"SELECT {chosen} FROM rows WHERE {PLACE} IN (SELECT unnest(?::BIGINT[]))"
        found = {row[PLACE]: row for row in self._table.dicts(sql, [list(places)])}
        return [found[place] for place in places]

    def _short(self, name: str) -> str:
        """A column as a card has it: of a long text the beginning."""
        told = self._table.column(name)
        is_long = self._table.types[name] == "VARCHAR" and name not in _WHOLE
        return f"left({told}, {_CARD_CHARS}) AS {told}" if is_long else told

    def condition(self, view: View) -> tuple[str, list[Any]]:
        """A view as a condition in SQL, and its parameters."""
        tests, given = ["true"], list[Any]()
        if view.show != "all":
            tests.append("kept" if view.show == "kept" else "NOT kept")
        for column, value in ((STEP, view.step), ("reason", view.reason), (RULE, view.rule)):
            if value is not None:
                tests.append(f"{column} = ?")
                given.append(value)
        if view.text:
            test, values = self._has_text(view.text.strip())
            tests.append(test)
            given += values
        for where in view.where:
            test, values = self._test(where)
            tests.append(test)
            given += values
        if view.change is not None:
            test, values = self._cuts.changed(view)
            tests.append(test)
            given += values
        return " AND ".join(tests), given

    def _has_text(self, text: str) -> tuple[str, list[Any]]:
        """As it stands in a column, upper and lower case alike; a URL as it is stored."""
        names = [name for name in _SEARCHED if name in self._table.types]
        wanted = {text.lower(), redact_url(text).lower()}
        tests = [f"contains(lower({name}), ?)" for name in names for _ in wanted]
        return f"({' OR '.join(tests)})", [text for _ in names for text in wanted]

    def _test(self, where: Where) -> tuple[str, list[Any]]:
        told = self._table.column(where.column)
        if where.op in ("missing", "there"):
            return f"{told} IS {'NOT ' if where.op == 'there' else ''}NULL", []
        if where.op in ("least", "most"):
            number, sign = self._table.number(where.column), ">=" if where.op == "least" else "<="
            bound, value = self._table.bound(where.column, float(where.value or 0))
            return f"{number} {sign} {bound}", [value]
        text = f"CAST({told} AS VARCHAR)"
        if where.op == "is":
            return f"{text} = ?", [where.value]
        return f"contains(lower({text}), lower(?))", [where.value]
