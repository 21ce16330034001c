"""Rows that belong together: copies with what they copy, the images of one prompt."""

from collections.abc import Sequence
from typing import Any, Final

from pipelines.browse.rows import Rows
from pipelines.browse.table import PLACE, Row, RowsTable
from pipelines.browse.view import View

GROUPED_BY: Final = ("duplicate_of", "prompt_key")
"""Columns whose equal values make a group."""
_MOST_SHOWN: Final = 48


class RowGroups:
    """Answers a view by groups: the largest first of copies, in the list's order of prompts."""

    def __init__(self, table: RowsTable, rows: Rows) -> None:
        self._table, self._rows = table, rows

    def page(
        self, view: View, by: str, *, offset: int, limit: int
    ) -> tuple[int, list[dict[str, Any]]]:
        """How many groups have a row of the view, and so many of them from `offset` on.

        Each has its `key`, how many rows of the view it has (`count`), the first of them (`rows`)
        and of copies the row that they copy (`original`), where the run has it.

        Args:
            by: One of `GROUPED_BY`.
        """
        if by not in self._table.types:
            return 0, []
        tests, given = self._rows.condition(view)
        grouped = f"FROM rows WHERE {tests} AND {by} IS NOT NULL"
        [(total,)] = self._table.ask(f"SELECT count(DISTINCT {by}) {grouped}", given)
        order = "count(*) DESC, min" if by == "duplicate_of" else "min"
        found = self._table.ask(
            f"SELECT {by}, count(*) {grouped} GROUP BY 1 ORDER BY {order}({PLACE}) "
            "LIMIT ? OFFSET ?",
            [*given, limit, offset],
        )
        keys = [key for key, _ in found]
        members = self._members(tests, given, by, keys)
        originals = self._originals(keys) if by == "duplicate_of" else {}
        return total, [
            {"key": key, "count": count, "rows": members[key], "original": originals.get(key)}
            for key, count in found
        ]

    def _members(
        self, tests: str, given: Sequence[Any], by: str, keys: Sequence[str]
    ) -> dict[str, list[Row]]:
        sql = (
            f"SELECT {by}, {PLACE} FROM rows "
            f"WHERE {tests} AND {by} IN (SELECT unnest(?::VARCHAR[]))"
            f" QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY {PLACE}) <= ?"
            f" ORDER BY {PLACE}"
        )
        found = self._table.ask(sql, [*given, list(keys), _MOST_SHOWN])
        cards = self._rows.cards([place for _, place in found])
        members: dict[str, list[Row]] = {key: [] for key in keys}
        for (key, _), card in zip(found, cards, strict=True):
            members[key].append(card)
        return members

    def _originals(self, keys: Sequence[str]) -> dict[str, Row]:
        """By key, the row that was stored under it."""
        sql = (
            f"SELECT {PLACE} FROM rows WHERE key IN (SELECT unnest(?::VARCHAR[])) "
            "AND sha256 IS NOT NULL"
        )
        places = [place for (place,) in self._table.ask(sql, [list(keys)])]
        return {card["key"]: card for card in self._rows.cards(places)}
