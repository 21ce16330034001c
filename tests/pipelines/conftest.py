"""What tests of sources and plans share: a list is written, planned, and read back by shards."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import settings

from pipelines.plan import Plan, PlanConfig, make_plan, read_rows
from pipelines.run.store import RunStore
from pipelines.sources import Source, SourceConfig

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A planned source, with every shard's rows put together."""

    plan: Plan
    source: Source
    store: RunStore

    def shard(self, shard_id: int) -> pa.Table:
        return read_rows(self.plan, self.store, self.source, shard_id)

    def rows(self) -> pa.Table:
        return pa.concat_tables([self.shard(shard) for shard in range(self.plan.num_shards)])


PlanPath = Callable[..., Planned]


@pytest.fixture
def plan_path(tmp_path: Path) -> PlanPath:
    """Plan a path: `plan_path(path, rows_per_shard=2, url_column="u")`."""

    def plan(path: Path | str, *, rows_per_shard: int = 3, **options: object) -> Planned:
        source = Source(SourceConfig(path=str(path), **options))  # type: ignore[arg-type]
        store = RunStore(str(tmp_path / "run"))
        made = make_plan(source, PlanConfig(rows_per_shard=rows_per_shard), store=store)
        return Planned(plan=made, source=source, store=store)

    return plan
