"""The first rows of a large shard, looked at while the others are still being fetched."""

import sys
from collections import Counter

import pyarrow as pa

from pipelines.rows.one_reason import FIRST_ROWS, prevailing, warning_of
from pipelines.steps.download.intake import RowOutcome
from sd_core.redact import redact_text, redact_url


class FirstRows:
    """Says one line as soon as nearly all of them have dropped for one reason.

    Args:
        rows: Of the shard; those with a reason were settled before the fetch. Of a smaller shard,
            or where only some of its rows are fetched again, nothing is said.
    """

    def __init__(self, rows: pa.Table) -> None:
        is_whole = rows.num_rows >= FIRST_ROWS and rows["row"][FIRST_ROWS - 1].as_py() < FIRST_ROWS
        rows = rows if is_whole else rows.slice(0, 0)
        first = rows.slice(0, FIRST_ROWS).select(["row", "url", "reason"]).to_pylist()
        self._urls = {row["row"]: row["url"] or "a row without a URL" for row in first}
        self._reasons: Counter[str] = Counter()
        self._is_told = False
        for row in first:
            self._count(row["row"], row["reason"], None)

    def add(self, row: int, outcome: RowOutcome) -> None:
        """Take in what became of a row."""
        if row in self._urls:
            self._count(row, outcome.reason, outcome.error_message)
            self._urls.pop(row)

    def _count(self, row: int, reason: str | None, message: str | None) -> None:
        if reason is None:
            return
        self._reasons[reason] += 1
        if self._is_told or prevailing(self._reasons, rows=FIRST_ROWS) != reason:
            return
        self._is_told = True
        told = f": {redact_text(message)}" if message else ""
        example = f"row {row}, {redact_url(self._urls[row])}{told}"
        line = warning_of(self._reasons, rows=FIRST_ROWS, example=example)
        sys.stdout.write(f"{line}\n")  # a worker's, which Ray brings to the driver
        sys.stdout.flush()
