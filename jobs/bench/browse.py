"""How long the page that browses a large run lets wait: at first, and for each kind of question."""

import io
import json
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from PIL import Image

from jobs.bench.ledger_case import make_facts
from jobs.bench.select import CUTS, cut_identity, cut_ledger
from pipelines.browse.server import BrowseServer
from pipelines.run.reader import open_run
from pipelines.run.record import complete_step
from pipelines.run.recorded_options import check_or_record
from pipelines.steps.kinds import STEP_KINDS
from sd_core.say import Say

_CUT: Final = "rules, exact"
_FILES: Final = ("", "palette.css", "browse.css", "main.js", "grid.js", "card.js", "filters.js")
_SEEN: Final = 24
_CONNECTIONS: Final = 6  # of a browser to one server
_SIDE_PX: Final = 256
_PAGE_LIMIT_S, _FILTER_LIMIT_S = 1.0, 0.3
_REPEATS: Final = 5
_WORDS: Final = ("house", "tree", "photo", "red", "old")
_REASONS: Final = (
    *("http_not_found", "aesthetic_v2_below_min", "punsafe_above_max"),
    *("duplicate_bytes", "ranked_below_best"),
)


@dataclass(frozen=True, kw_only=True)
class BrowseResult:
    """The median of some questions of one kind, each asked for the first time.

    Attributes:
        limit_s: What was promised; None of what no promise is about.
    """

    asked: str
    seconds: float
    worst_seconds: float
    limit_s: float | None

    @property
    def is_good_enough(self) -> bool:
        """Whether it is as quick as was promised."""
        return self.limit_s is None or self.seconds < self.limit_s


def measure_browse(num_rows: int, metadata: Path, photos: Path, *, say: Say) -> list[BrowseResult]:
    """Serve a made run from this process, and ask as a browser does."""
    with tempfile.TemporaryDirectory(prefix="bench-browse-") as folder:
        root = Path(folder) / "run"
        case = make_facts(root, num_rows=num_rows, metadata=metadata, picture=_picture(photos))
        cut_ledger(_CUT, case)
        steps = (case.images, case.score, cut_identity(_CUT, case))
        told = {"job": "curate", "config": {"select": CUTS[_CUT]}}
        check_or_record(case.store, steps, job=told)
        for step in steps:
            paths = STEP_KINDS[step.step].paths
            complete_step(case.store, step, num_shards=case.num_shards, folders=paths, later=())
        say(f"{num_rows:,} rows in {case.num_shards} shards are made and cut")
        begin = time.perf_counter()
        with BrowseServer(open_run(case.store.root)) as server:
            opened = time.perf_counter() - begin
            return [
                BrowseResult(
                    asked="the command reads the ledger",
                    seconds=opened,
                    worst_seconds=opened,
                    limit_s=None,
                ),
                *_asked(server.url, num_rows),
            ]


def _picture(photos: Path) -> bytes:
    """A photograph, or what stands for one, as the download step stores it."""
    first = next(iter(sorted(photos.glob("*.jpg"))), None)
    image = Image.effect_noise((_SIDE_PX, _SIDE_PX), 60) if first is None else Image.open(first)
    stream = io.BytesIO()
    image.convert("RGB").resize((_SIDE_PX, _SIDE_PX)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _asked(url: str, num_rows: int) -> list[BrowseResult]:
    def view(**options: Any) -> Callable[[], object]:
        return lambda: _get(url, "rows", view=json.dumps(options), offset=0, limit=60)

    def moved(value: float) -> Callable[[], object]:
        given = {"column": "aesthetic_v2", "bound": "min", "value": value}
        return lambda: _get(url, "moved", moved=json.dumps(given))

    sorts = ("clip_similarity", "aesthetic_v2", "punsafe", "original_width", "caption")
    steps = range(1, _REPEATS + 1)
    kinds: dict[str, list[Callable[[], object]]] = {
        "a filter by reason": [view(reason=name) for name in _REASONS],
        "a filter by a number": [
            view(where=[{"column": "aesthetic_v2", "op": "least", "value": 4 + n / 4}])
            for n in steps
        ],
        "a search": [view(text=word) for word in _WORDS],
        "an order": [view(sort=name, descending=True) for name in sorts],
        "a far part of all rows": [
            lambda n=n: _get(url, "rows", view="{}", offset=n * num_rows // 6, limit=60)  # type: ignore[misc]
            for n in steps
        ],
        "a threshold moved": [moved(4.2 + n / 5) for n in steps],
    }
    first = _times([lambda: _first_view(url)])
    found = [_result("the page's first view, with its pictures", first, _PAGE_LIMIT_S)]
    return found + [_result(name, _times(asks), _FILTER_LIMIT_S) for name, asks in kinds.items()]


def _first_view(url: str) -> None:
    """The page, its files, the run, the first rows and the pictures that are seen at once."""
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        list(pool.map(lambda name: _get(url, name), _FILES))
        _get(url, "run")
        rows = json.loads(_get(url, "rows", view="{}", offset=0, limit=60))["rows"]
        places = [row["__place"] for row in rows if row["width"] is not None][:_SEEN]
        list(pool.map(lambda place: _get(url, "picture", place=place, size="small"), places))


def _get(url: str, name: str, **given: object) -> bytes:
    with urllib.request.urlopen(f"{url}{name}?{urlencode(given)}") as answer:
        content: bytes = answer.read()
        return content


def _times(asks: list[Callable[[], object]]) -> list[float]:
    times = []
    for ask in asks:
        begin = time.perf_counter()
        ask()
        times.append(time.perf_counter() - begin)
    return times


def _result(asked: str, times: list[float], limit_s: float) -> BrowseResult:
    median, worst = statistics.median(times), max(times)
    return BrowseResult(asked=asked, seconds=median, worst_seconds=worst, limit_s=limit_s)


def browse_table(results: list[BrowseResult]) -> str:
    """The results as a table."""
    width = max(len(result.asked) for result in results)
    return "\n".join(
        f"{result.asked:<{width}}  {result.seconds:6.3f} s (at most {result.worst_seconds:.3f} s)"
        + ("" if result.is_good_enough else f"  NOT BELOW {result.limit_s:g} s")
        for result in results
    )
