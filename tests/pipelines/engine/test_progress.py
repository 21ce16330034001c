"""The progress line of a step, and the closing table."""

import re

import pytest

from pipelines.engine.progress import Progress, funnel_table
from pipelines.run.manifest import Manifest
from pipelines.run.record import StepSummary


def manifest(shard_id: int, *, rows_in: int = 10, kept: int = 7) -> Manifest:
    return Manifest(
        step="download",
        fingerprint="f0",
        shard_id=shard_id,
        files=(),
        rows_in=rows_in,
        kept=kept,
        dropped={"http_gone": rows_in - kept} if rows_in != kept else {},
    )


def summary(rows_in: int, kept: int, dropped: dict[str, int]) -> StepSummary:
    return StepSummary(fingerprint="f0", num_shards=1, rows_in=rows_in, kept=kept, dropped=dropped)


def test_line_says_shards_rows_rate_share_and_time_left() -> None:
    said: list[str] = []
    progress = Progress(say=said.append, every_s=0.0)
    progress.start("download", shards_total=4, shards_done=0)
    progress.add(manifest(0))
    progress.add(manifest(1, kept=8))
    assert len(said) == 2
    pattern = r"download: 2/4 shards, 20 rows, [\d,.]+ images/s, kept 75\.0%, \d+:\d\d:\d\d left"
    assert re.fullmatch(pattern, said[1])


def test_lines_are_spaced_but_the_last_is_always_said() -> None:
    said: list[str] = []
    progress = Progress(say=said.append, every_s=3600.0)
    progress.start("download", shards_total=50, shards_done=0)
    for shard_id in range(50):
        progress.add(manifest(shard_id))
    assert said[-1].startswith("download: 50/50 shards, 500 rows")
    assert "0:00:00 left" in said[-1]
    assert len(said) <= 2


def test_resumed_step_says_so_and_does_not_count_what_was_done() -> None:
    said: list[str] = []
    progress = Progress(say=said.append, every_s=0.0)
    progress.start("download", shards_total=4, shards_done=3)
    assert said == ["download: resumes, 3 of 4 shards are committed"]
    progress.add(manifest(3))
    assert said[1].startswith("download: 4/4 shards, 10 rows")


@pytest.mark.parametrize("shards_done", [0, 4])
def test_step_that_is_new_or_done_does_not_say_that_it_resumes(shards_done: int) -> None:
    said: list[str] = []
    Progress(say=said.append).start("download", shards_total=4, shards_done=shards_done)
    assert said == []


def test_shard_without_rows_has_no_share() -> None:
    said: list[str] = []
    progress = Progress(say=said.append)
    progress.start("download", shards_total=1, shards_done=0)
    progress.add(manifest(0, rows_in=0, kept=0))
    assert "kept -" in said[0]


def test_funnel_accounts_for_every_row_with_the_commonest_reason_first() -> None:
    table = funnel_table(
        1000,
        [
            ("download", summary(1000, 800, {"dns_failed": 50, "http_gone": 150})),
            ("select", summary(800, 300, {"aesthetic_v2_below_min": 500})),
        ],
    )
    lines = table.splitlines()
    assert lines[1].split() == ["download", "1,000", "800", "80.0%", "150", "http_gone"]
    assert lines[2].split() == ["50", "dns_failed"]
    assert lines[3].split() == ["select", "800", "300", "37.5%", "500", "aesthetic_v2_below_min"]
    assert lines[4].split()[:4] == ["all", "1,000", "300", "30.0%"]
    assert lines[4].endswith("700 dropped; every row is accounted for")


def test_funnel_that_loses_a_row_says_so_loudly() -> None:
    table = funnel_table(1000, [("download", summary(999, 800, {"http_gone": 199}))])
    assert "THE COUNTS DO NOT ADD UP" in table


def test_funnel_of_nothing() -> None:
    assert funnel_table(0, []).splitlines() == [funnel_table(5, [])]
    assert "every row is accounted for" in funnel_table(0, [("download", summary(0, 0, {}))])
