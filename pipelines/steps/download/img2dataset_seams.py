"""img2dataset's Downloader as the engine of the fetch, with our guarantees in its three seams.

Each shard runs in a copy of its module of its own, so that several can run in one process.

- Fetch: the module's `download_image_with_retry` is the session's, which asks our `Intake`.
- Resize: its loop resizes on one thread, so the decode already happens in the fetching thread
  (which waits for a decoder process) and the resizer only hands the finished bytes over. Its own
  Resizer redirects the process's stdout from several threads at once, and decodes bombs.
- Sample writer: crops go to the local spool and the outcome to the session, not to a final file.

What its seams cannot carry is done beside them. Its hash check reads the body in that loop, after
the decode; ours comes before, so that blocked or swapped bytes are never decoded. Its Downloader
swallows exceptions, so the session keeps the first one, and every row is counted afterwards. Its
order is that of completion, and a row is known to it by its place; the table that it insists on
reading says how many there are and nothing of them, which also keeps credentials off the disk.
"""

import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.pool import RUN
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from pipelines.run.manifest import ShardError
from pipelines.run.spool import CropSpool
from pipelines.steps.download.intake import IncomingRow, Intake, OnOutcome, RowOutcome, Taken

_import_lock = threading.Lock()
_BARE = "img2dataset_without_its_init"
_LOOK_EVERY_S = 0.2


def download_rows(
    rows: Sequence[IncomingRow],
    *,
    intake: Intake,
    spool: CropSpool,
    threads: int,
    folder: Path,
    on_outcome: OnOutcome = lambda row, outcome: None,
) -> dict[int, RowOutcome]:
    """Fetch and decode rows; crops go to the spool.

    Args:
        threads: Rows that are fetched or decoded at a time.
        folder: Local, for img2dataset's own small files.
        on_outcome: Told of each row as it comes to its end, on a thread of img2dataset's.

    Returns:
        The outcome of every row, by row number.

    Raises:
        ShardError: Something failed that is not a row's own fault, such as a full disk.
    """
    if not rows:
        return {}
    session = _Session(rows, intake=intake, spool=spool, on_outcome=on_outcome)
    table = folder / "rows.arrow"
    _write_table(len(rows), table)
    downloader: Any = load_img2dataset()
    downloader.download_image_with_retry = session.fetch
    run = downloader.Downloader(
        sample_writer_class=session.open_writer,
        resizer=_hand_over,
        thread_count=min(threads, len(rows)),
        save_caption=False,
        extract_exif=False,
        output_folder=str(folder),
        column_list=["url"],
        timeout=0,
        number_sample_per_shard=len(rows),
        oom_shard_count=5,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=None,
    )
    run.download_shard((0, str(table)))
    return session.outcomes_of_all()


def load_img2dataset() -> ModuleType:
    """A new copy of img2dataset's downloader module.

    It is loaded without the package's `__init__`, which would bring in everything its command line
    can use: Ray, torch, albumentations (which calls home), 0.6 GB and several seconds a process.
    """
    os.environ.setdefault("WANDB_MODE", "disabled")
    with _import_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if _BARE not in sys.modules:
            found = importlib.util.find_spec("img2dataset")
            if found is None or found.submodule_search_locations is None:
                raise ModuleNotFoundError("img2dataset is not installed: pip install img2dataset")
            bare = ModuleType(_BARE)
            bare.__path__ = list(found.submodule_search_locations)
            sys.modules[_BARE] = bare
        spec = importlib.util.find_spec(f"{_BARE}.downloader")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    module.Semaphore = _Turns  # type: ignore[attr-defined]
    module.write_stats = lambda *counts: None  # type: ignore[attr-defined]  # which nobody reads
    return module


class _Turns(threading.Semaphore):
    """img2dataset's bound on the rows in flight, which lets go where its pool is being ended.

    The pool's own thread waits in it for a turn, and the pool's end waits for that thread: a
    signal, or an error in the loop that gives the turns back, would otherwise never come through.
    """

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        feeder = threading.current_thread()
        while not super().acquire(timeout=_LOOK_EVERY_S):
            if getattr(feeder, "_state", RUN) != RUN:  # as the pool's thread itself looks
                return False
        return True


class _Crop:
    """What img2dataset passes from the fetch to the resizer in place of a stream of the body."""

    def __init__(self, taken: Taken) -> None:
        self.taken = taken

    def seek(self, offset: int) -> None:
        """Nothing to rewind."""

    def close(self) -> None:
        """Nothing to close."""


class _Session:
    """One shard's rows on their way through img2dataset, by their places."""

    def __init__(
        self,
        rows: Sequence[IncomingRow],
        *,
        intake: Intake,
        spool: CropSpool,
        on_outcome: OnOutcome,
    ) -> None:
        self._rows = rows
        self._on_outcome = on_outcome
        self._intake = intake
        self._spool = spool
        self._taken: dict[int, RowOutcome] = {}
        self._written: dict[int, RowOutcome] = {}
        self._error: Exception | None = None

    def fetch(self, row: tuple[int, None], **settings: Any) -> tuple[int, Any, str | None]:
        """Take one row in: its place, and what to resize or why there is nothing."""
        place, _ = row
        nothing = place, None, "not downloaded"
        if self._error is not None:
            return nothing
        try:
            taken = self._intake.fetch(self._rows[place])
        except Exception as error:  # img2dataset would hang or lose it; raised after the shard
            self._error = error
            return nothing
        self._taken[place] = taken.outcome
        return (
            nothing if taken.outcome.status == "failed_to_download" else (place, _Crop(taken), None)
        )

    def open_writer(self, *arguments: Any) -> "_Session":
        """Stands in for img2dataset's sample-writer class."""
        return self

    def write(self, image: bytes | None, key: str, caption: None, meta: dict[str, Any]) -> None:
        """A row has come to its end; called by img2dataset on its own thread."""
        place = int(key)  # of the shard 0, as it was told
        if place not in self._taken:
            return
        number = self._rows[place].row
        try:
            if image is not None:
                self._spool.add(number, image)
            self._written[number] = replace(self._taken[place], status=meta["status"])
            self._on_outcome(number, self._written[number])
        except Exception as error:  # img2dataset would print its trace, and go on
            self._error = self._error or error

    def close(self) -> None:
        """Called by img2dataset when the last row is written."""

    def outcomes_of_all(self) -> dict[int, RowOutcome]:
        """Every row's outcome; raises ShardError where one is missing."""
        if self._error is not None:
            raise ShardError(f"download stopped: {type(self._error).__name__}") from self._error
        missing = len(self._rows) - len(self._written)
        if missing:
            raise ShardError(f"img2dataset gave {missing} of {len(self._rows)} rows no outcome")
        return self._written


def _write_table(num_rows: int, path: Path) -> None:
    table = pa.table({"url": pa.nulls(num_rows)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _hand_over(
    crop: _Crop, bounding_boxes: None
) -> tuple[bytes | None, int | None, int | None, int | None, int | None, str | None]:
    outcome = crop.taken.outcome
    return (
        crop.taken.image,
        outcome.width,
        outcome.height,
        outcome.original_width,
        outcome.original_height,
        outcome.reason,
    )
