"""One line, at once, where nearly all of the first rows of a job drop for one reason."""

from collections import Counter, defaultdict

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.ledger import QUARANTINED
from pipelines.rows.one_reason import FIRST_ROWS, prevailing, warning_of
from pipelines.run.checked import read_checked
from pipelines.run.manifest import Manifest
from pipelines.run.store import RunStore
from sd_core.errors import FoundryError
from sd_core.say import Say

_NAMES = ("url", "prompt", "caption", "key")
_TOLD = ("rule", "error_message")


class EarlyWarning:
    """Looks at the commits of each step until it has as many rows; says one line in all.

    Attributes:
        watched: Of a step whose workers look at the first rows of a large shard themselves, which
            shard that is.
    """

    def __init__(self, store: RunStore, *, say: Say) -> None:
        self.watched: dict[str, int] = {}
        self._store, self._say = store, say
        self._rows: Counter[str] = Counter()
        self._reasons: dict[str, Counter[str]] = defaultdict(Counter)
        self._is_told = False

    def add(self, manifest: Manifest) -> None:
        """Take in a commit."""
        step, rows = manifest.step, manifest.rows_in
        if self._is_told or manifest.quarantined is not None or self._rows[step] >= FIRST_ROWS:
            return
        if rows >= FIRST_ROWS and step in self.watched:
            if self.watched[step] != manifest.shard_id:
                return
            first = self._read(manifest, ["reason"])
            reasons = [] if first is None else first["reason"][:FIRST_ROWS].drop_null().to_pylist()
            if prevailing(Counter(reasons), rows=FIRST_ROWS):
                self._is_told = True  # by the worker
                return
        self._rows[step] += rows
        self._reasons[step].update(manifest.dropped)
        found = self._reasons[step]
        reason = prevailing(found, rows=self._rows[step])
        if reason is not None and reason != QUARANTINED:
            self._is_told = True
            example = self._example(manifest, reason)
            self._say(warning_of(found, rows=self._rows[step], example=example))

    def _example(self, manifest: Manifest, reason: str) -> str:
        table = self._read(manifest, ["row", "reason", *_NAMES, *_TOLD])
        if table is None:
            return ""
        for row in table.filter(pc.equal(table["reason"], reason)).slice(0, 1).to_pylist():
            named = next((row[name] for name in _NAMES if row.get(name)), "a row without a URL")
            told = [str(row[name]) for name in _TOLD if row.get(name)]
            return f"row {row['row']}, {': '.join([str(named), *told])}"
        return ""

    def _read(self, manifest: Manifest, columns: list[str]) -> pa.Table | None:
        """Columns of the shard's rows, as they are stored: without secrets."""
        for file in manifest.files:
            if file.path.endswith(".parquet"):
                try:
                    table = read_checked(self._store, file, columns)
                except (FoundryError, OSError, pa.ArrowException):
                    continue  # whoever needs it meets that as well
                if "reason" in table.column_names:
                    return table
        return None
