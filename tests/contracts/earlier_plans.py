"""Plans as versions before the second readers made them: no word of a reader, of tars or of CSV."""

import json
from pathlib import Path
from typing import Any

from pipelines.plan import PlanConfig, make_plan
from pipelines.run.store import RunStore
from pipelines.sources import Source, SourceConfig
from pipelines.sources.rows import EARLIER_READER


class EarlierSource(Source):
    """Scans by the readers of then."""

    def scan(self, file: Any, **options: Any) -> Any:
        return super().scan(file, **{**options, "reader": EARLIER_READER})


def plan_as_earlier(path: Path, output: Path, *, rows_per_shard: int) -> None:
    """Plan a run, and take from its record what such a plan did not have."""
    store = RunStore(str(output))
    source = EarlierSource(SourceConfig(path=str(path)))
    make_plan(source, PlanConfig(rows_per_shard=rows_per_shard), store=store)
    stored = output / "_work/plan/plan.json"
    tree = json.loads(stored.read_text())
    for name in ("notes", "own_digest", "shards_sha256"):
        tree.pop(name, None)
    tree["options"] = {
        name: value
        for name, value in tree["options"].items()
        if name in ("format", "url_column", "caption_column", "content_hash")
    }
    for file in tree["files"]:
        del file["reader"]
    stored.write_text(json.dumps(tree))
