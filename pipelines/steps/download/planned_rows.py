"""A shard's rows for the download step: read, and settled where nothing need be fetched."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.plan import Plan, load_plan, read_rows
from pipelines.redact import redact_text_column, redact_url_column
from pipelines.rows.caption_facts import CAPTION_FACTS
from pipelines.rules.before_fetch import BeforeFetch
from pipelines.rules.tombstones import Tombstones, mask_rows, read_tombstones
from pipelines.run.store import RunStore
from pipelines.run.tables import with_column
from pipelines.sources import Source


@dataclass(frozen=True)
class PlannedRows:
    """Plan and rules together. Holds no open file and no list, so that it pickles."""

    store: RunStore
    source: Source
    rules: BeforeFetch = field(default_factory=BeforeFetch)

    @cached_property
    def plan(self) -> Plan:
        """The run's plan, read once per process."""
        return load_plan(self.store)

    def __getstate__(self) -> dict[str, Any]:
        names = ("store", "source", "rules")
        return {name: self.__dict__[name] for name in names}

    @cached_property
    def tombstones(self) -> Tombstones:
        """What was taken down, read once per process."""
        return read_tombstones(self.store)

    def blocks_content(self, sha256: str) -> bool:
        """Whether content of this hex sha256 is blocked, or was taken down."""
        return self.tombstones.hides_content(sha256) or self.rules.sha256_blocked(sha256)

    def url_reason(self, url: str) -> str | None:
        """Why a URL, or the one that redirects led to, is blocked; None where it is not."""
        return "url_blocked" if self.tombstones.hides_url(url) else self.rules.url_reason(url)

    @property
    def files_root(self) -> str | None:
        """The folder of the files that the list names by path."""
        return self.source.config.files_root

    def num_rows(self, shard_id: int) -> int:
        return self.plan.num_rows_of(shard_id)

    def read(self, shard_id: int) -> pa.Table:
        """A shard's rows; `reason` and `rule` say what plan and rules settled, and facts of
        captions that rules went by stand beside. Of a row that was taken down only its number is
        left.

        `url` and `caption` are as the list has them, secrets and all.
        """
        rows = read_rows(self.plan, self.store, self.source, shard_id)
        settled = self.rules.judge(rows)
        for name in ("reason", "error_message"):
            rows = with_column(rows, name, pc.coalesce(rows[name], getattr(settled, name)))
        for name, column in {"rule": settled.rule, **settled.facts}.items():
            rows = rows.append_column(name, column)
        return mask_rows(rows, self.tombstones.hides(rows))

    def read_redacted(self, shard_id: int) -> pa.Table:
        """As `read`, with URL and caption fit to be stored."""
        rows = self.read(shard_id)
        rows = rows.drop_columns([name for name in CAPTION_FACTS if name in rows.column_names])
        for name, redact in (("url", redact_url_column), ("caption", redact_text_column)):
            rows = with_column(rows, name, redact(rows[name]))
        return rows

    def read_images(self, shard_id: int) -> Iterator[tuple[int, bytes]] | None:
        """`(row, bytes)` where the images come with the source; None where they are fetched."""
        if not self.source.holds_images:
            return None
        return self.source.read_images(self.plan.shard(shard_id))
