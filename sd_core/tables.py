"""Names in tables: what a configuration says is looked up when it is read, so that tables grow."""

from collections.abc import Iterable, Mapping
from typing import Any


class NameIn:
    """Checks that a text is a key of a table; for pydantic's `AfterValidator`.

    Args:
        table: What the names stand for.
        also: Further names that are allowed, before the table's.
    """

    def __init__(self, table: Mapping[str, Any], *, also: Iterable[str] = ()) -> None:
        self._table, self._also = table, tuple(also)

    def names(self) -> list[str]:
        return [*self._also, *self._table]

    def allowed(self) -> str:
        """The same, as a message says it."""
        *others, last = map(repr, self.names())
        return f"{', '.join(others)} or {last}" if others else last

    def __call__(self, name: str) -> str:
        """The name; raises `ValueError` where there is no such thing."""
        if name not in self.names():
            raise ValueError(f"input should be {self.allowed()}")
        return name
