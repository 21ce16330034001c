"""A batch that a library refuses is split until the row is found: that row fails alone.

What is no row's fault is never charged to one. Errors of the machine (memory, storage, a GPU) are
raised as they are. A row that fails alone is charged only where others went through: where a whole
batch fails, a row that went through before is tried once more, and where none ever did, one that
is known to be good; without such a one the first error is raised at the end.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import pyarrow as pa

from pipelines.rows.ledger import REJECTS, ROW_FAILED
from pipelines.run.manifest import SpooledFile
from pipelines.run.tables import write_table
from sd_core.errors import is_environment
from sd_core.redact import redact_text

RowT = TypeVar("RowT")
ResultT = TypeVar("ResultT")

_MESSAGE_CHARS: Final = 300
_DEVICE_SIGNS: Final = (
    *("CUDA error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "CUSOLVER_STATUS"),
    *("HIP error", "NCCL", "device-side assert", "cannot schedule new futures"),
)

Failures = dict[str, Exception]
"""By key, the error that each row of a shard ended with when it was tried alone."""


class Isolation(Generic[RowT, ResultT]):
    """One piece of work over the batches of one shard.

    Args:
        work: Batch to result; safe to repeat, and fills a smaller batch up where the result's
            bytes depend on the batch's size.
        key_of: A row's key.
        failures: Takes the rows that failed alone.
    """

    def __init__(
        self,
        work: Callable[[Sequence[RowT]], ResultT],
        *,
        key_of: Callable[[RowT], str],
        failures: Failures,
    ) -> None:
        self._work = work
        self._key_of = key_of
        self._failures = failures
        self._proven: Sequence[RowT] | None = None
        self._first_error: Exception | None = None

    def run(self, rows: Sequence[RowT]) -> list[ResultT]:
        """The results of the batch, in order: one, or several without the rows that failed."""
        proven = self._proven
        results = self._attempt(rows)
        if not results and proven is not None:
            self._work(proven)  # raises where it is not these rows, but everything
        return results

    def finish(self, *, known: RowT | None = None) -> None:
        """After the last batch: raise the first error where no row ever went through.

        Args:
            known: A row that nobody refuses: where it goes through, the others are to blame.
        """
        if self._proven is not None or not self._failures:
            return
        first = self._first_error or next(iter(self._failures.values()))
        if known is None:
            raise first
        try:
            self._work([known])
        except Exception as error:
            raise error if is_of_everything(error) else first from None

    def _attempt(self, rows: Sequence[RowT]) -> list[ResultT]:
        error = None
        try:
            result = self._work(rows)
        except Exception as caught:
            if is_of_everything(caught):
                raise
            error = caught
        if error is None:
            self._proven = rows[:1]
            return [result]
        self._first_error = self._first_error or error
        if len(rows) > 1:
            half = len(rows) // 2
            return [*self._attempt(rows[:half]), *self._attempt(rows[half:])]
        self._failures[self._key_of(rows[0])] = error
        return []


def made_ahead(work: Callable[[Sequence[RowT]], ResultT], rows: Sequence[RowT]) -> ResultT | None:
    """What is made of a batch before an `Isolation` has its turn; None where that fails and a row
    may be to blame: the isolated work, which makes it anew, finds which."""
    try:
        return work(rows)
    except Exception as error:
        if is_of_everything(error):
            raise
        return None


def is_of_everything(error: BaseException) -> bool:
    """Whether an error is the machine's or the storage's, so that no row is to blame."""
    if isinstance(error, OSError | MemoryError | CancelledError) or is_environment(error):
        return True
    text = str(error)
    is_device = type(error).__name__ == "AcceleratorError"
    return is_device or any(sign in text for sign in _DEVICE_SIGNS)


def describe_error(error: BaseException) -> str:
    """An error's kind and the first line of its text, without secrets."""
    lines = redact_text(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:_MESSAGE_CHARS]


def reject(facts: Mapping[str, Any], *, reason: str, message: str) -> dict[str, Any]:
    """A row of `REJECTS`; `facts` have shard_id, row and key."""
    names = ("shard_id", "row", "key")
    return {**{name: facts[name] for name in names}, "reason": reason, "error_message": message}


def failed_rows(facts: Iterable[Mapping[str, Any]], failures: Failures) -> list[dict[str, Any]]:
    """Rows of `REJECTS` for those of `facts` that failed."""
    return [
        reject(row, reason=ROW_FAILED, message=describe_error(failures[row["key"]]))
        for row in facts
        if row["key"] in failures
    ]


def spool_rejects(
    rejects: Sequence[Mapping[str, Any]], *, path: Path, folder: str
) -> list[SpooledFile]:
    """The file of a shard's refused rows, to be published in `folder`; none where there is none."""
    if not rejects:
        return []
    write_table(pa.Table.from_pylist([dict(row) for row in rejects], schema=REJECTS), path)
    return [SpooledFile(folder=folder, path=path, num_rows=len(rejects))]
