"""What the page asks the server for, and what it gets: JSON, and pictures."""

import asyncio
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from aiohttp import web
from PIL import Image
from pydantic import ValidationError

from pipelines.browse.columns import describe_column, describe_run
from pipelines.browse.cuts import Cuts
from pipelines.browse.groups import GROUPED_BY, RowGroups
from pipelines.browse.rows import Rows
from pipelines.browse.table import PLACE, Row, RowsTable
from pipelines.browse.view import Moved, View
from pipelines.config import Config
from pipelines.report.pictures import StoredPictures, small_picture
from pipelines.report.texts import shown_text
from pipelines.report.why import life_of
from pipelines.run.revision_files import NotInRunError
from sd_core.errors import FoundryError, InputError, is_environment
from sd_core.faults import describe_fault

_MOST_ROWS: Final = 200
_MOST_KEYS: Final = 100_000
_SMALL_PX: Final = 320
_QUALITY: Final = 70
_SMALL_HELD: Final = 3_000
_LARGEST_NUMBER: Final = 2**53  # of which a browser knows every digit
_KINDS: Final = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}
AskedT = TypeVar("AskedT", bound=Config)


class Api:
    """Answers for one revision of a run; nothing that it does changes anything."""

    def __init__(self, table: RowsTable) -> None:
        self._table = table
        self._cuts = Cuts(table)
        self._rows = Rows(table, self._cuts)
        self._groups = RowGroups(table, self._rows)
        self._pictures = StoredPictures(table.run)
        self._small = lru_cache(maxsize=_SMALL_HELD)(self._make_small)

    def routes(self) -> list[web.RouteDef]:
        """Each under the token."""
        answers: Mapping[str, Callable[[web.Request], Any]] = {
            "run": lambda asked: describe_run(self._table, self._cuts),
            "column": lambda asked: describe_column(self._table, asked.query.get("name", "")),
            "rows": self._page,
            "row": self._row,
            "groups": self._page_of_groups,
            "keys": self._keys,
            "moved": self._moved,
            "cuts": lambda asked: [vars(cut) for cut in self._cuts.earlier()],
        }
        found = [web.get(f"/{{token}}/{name}", _json(make)) for name, make in answers.items()]
        return [*found, web.get("/{token}/picture", self._picture)]

    def _page(self, asked: web.Request) -> dict[str, Any]:
        offset, limit = _part(asked)
        total, rows = self._rows.page(_given(asked, "view", View), offset=offset, limit=limit)
        return {"total": total, "offset": offset, "rows": rows}

    def _page_of_groups(self, asked: web.Request) -> dict[str, Any]:
        by = asked.query.get("by", "")
        if by not in GROUPED_BY:
            raise InputError(f"groups by {by!r}; allowed: {', '.join(GROUPED_BY)}")
        offset, limit = _part(asked)
        view = _given(asked, "view", View)
        total, groups = self._groups.page(view, by, offset=offset, limit=limit)
        return {"total": total, "offset": offset, "groups": groups}

    def _keys(self, asked: web.Request) -> dict[str, Any]:
        """The keys of a view's rows, for a takedown."""
        places = self._rows.places(_given(asked, "view", View))
        sql = (
            f"SELECT key FROM rows WHERE {PLACE} IN (SELECT unnest(?::BIGINT[])) "
            f"ORDER BY {PLACE} LIMIT ?"
        )
        found = self._table.ask(sql, [places.tolist(), _MOST_KEYS + 1])
        keys = [key for (key,) in found]
        return {"keys": keys[:_MOST_KEYS], "is_cut": len(keys) > _MOST_KEYS}

    def _moved(self, asked: web.Request) -> dict[str, Any]:
        moved = _given(asked, "moved", Moved)
        return {**self._cuts.count(moved), "yaml": self._cuts.rules.yaml(moved)}

    def _row(self, asked: web.Request) -> dict[str, Any]:
        """The whole row of the ledger, and its life as `why` tells it."""
        [row] = self._table.dicts(
            f"SELECT * FROM rows WHERE {PLACE} = ?", [self._one(asked)[PLACE]]
        )
        life = life_of(self._table.run, f"{row['shard_id']}:{row['row']}")
        told = {name: value for name, value in row.items() if not name.startswith("__")}
        return {"row": told, "why": life}

    def _one(self, asked: web.Request) -> Row:
        place = _number(asked, "place", 0)
        sql = f"SELECT {PLACE}, shard_id, key, sha256 FROM rows WHERE {PLACE} = ?"
        if rows := self._table.dicts(sql, [place]):
            return rows[0]
        raise NotInRunError(f"{self._table.run.path}: no row {place:,} of {self._table.num_rows:,}")

    async def _picture(self, asked: web.Request) -> web.Response:
        make = self._stored if asked.query.get("size") == "full" else self._small
        try:
            row = await asyncio.to_thread(self._one, asked)
            content = await asyncio.to_thread(make, row["shard_id"], row["key"])
        except (FoundryError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            content = None  # the page says that there is none; `verify` says why
        kind = next((k for sign, k in _KINDS.items() if content and content.startswith(sign)), None)
        if content is None or kind is None:
            return web.Response(status=404, text="no picture\n")
        return web.Response(body=content, content_type=kind)

    def _stored(self, shard_id: int, key: str) -> bytes | None:
        return self._pictures.read(shard_id, key)

    def _make_small(self, shard_id: int, key: str) -> bytes | None:
        content = self._stored(shard_id, key)
        return None if content is None else small_picture(content, _SMALL_PX, quality=_QUALITY)


def static_routes() -> list[web.RouteDef]:
    """The page itself: its files are read once, and there are no others."""
    folder = Path(__file__).parent / "static"
    palette = Path(__file__).parents[1] / "report" / "templates" / "palette.css"
    kinds = {
        ".html": "text/html",
        ".css": "text/css",
        ".js": "text/javascript",
        ".svg": "image/svg+xml",
    }
    return [
        web.get("/{token}/" + ("" if path.name == "index.html" else path.name), _file(path, kind))
        for path in sorted([palette, *folder.iterdir()])
        if (kind := kinds.get(path.suffix)) is not None
    ]


def _file(path: Path, kind: str) -> Callable[[web.Request], Any]:
    content = path.read_text(encoding="utf-8")

    async def answer(asked: web.Request) -> web.Response:
        return web.Response(text=content, content_type=kind, charset="utf-8")

    return answer


def _json(make: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
    async def answer(asked: web.Request) -> web.Response:
        try:
            return web.json_response(browser_value(await asyncio.to_thread(make, asked)))
        except Exception as error:
            if isinstance(error, InputError):
                status, told = 400, str(error)
            elif is_environment(error):
                status, told = 503, describe_fault(error)
            elif isinstance(error, FoundryError):
                status, told = 500, str(error)
            else:
                raise
            return web.json_response({"error": browser_value(told)}, status=status)

    return answer


def browser_value(value: Any) -> Any:
    """As JSON that a browser reads without loss: texts as they may be shown, and numbers that it
    has no place for as texts."""
    if isinstance(value, str):
        return shown_text(value)
    if isinstance(value, Mapping):
        return {str(name): browser_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [browser_value(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST_NUMBER:
        return str(value)
    return (
        value if value is None or isinstance(value, bool | int | float) else shown_text(str(value))
    )


def _given(asked: web.Request, name: str, kind: type[AskedT]) -> AskedT:
    try:
        return kind.model_validate_json(asked.query.get(name, "{}"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (name, *first["loc"])))
        raise InputError(f"{where}: {first['msg']}") from error


def _part(asked: web.Request) -> tuple[int, int]:
    return _number(asked, "offset", 0), min(_number(asked, "limit", 60), _MOST_ROWS)


def _number(asked: web.Request, name: str, default: int) -> int:
    text = asked.query.get(name, str(default))
    if not text.isdecimal() or len(text) > 15:
        raise InputError(f"{name} {text!r}: give a whole number")
    return int(text)
