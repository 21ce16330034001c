"""What a run made of planted rows."""

from jobs.demo.outcome import DemoOutcome
from jobs.demo.recall import bad_url_table, findings_table, judge_outcomes


def outcome(planted: str, reason: str | None = None) -> DemoOutcome:
    """A row that was planted so and ended so."""
    return DemoOutcome(
        shard_id=0,
        key=f"{planted}-{reason}",
        url="http://127.0.0.1/x",
        caption="a red circle",
        kept=reason is None,
        reason=reason,
        rule=None,
        clip_similarity=None,
        aesthetic=None,
        has_image=True,
        planted=planted,
    )


GOOD = [outcome("good")] * 19 + [outcome("good", "aesthetic_v1_below_min")]
FLAWED = [outcome("blur", "aesthetic_v1_below_min")] * 39 + [outcome("blur")]


def test_shares_at_the_bounds_are_good_enough():
    findings = judge_outcomes([*GOOD, *FLAWED])
    assert findings.good.share == 0.95
    assert findings.flawed.share == 0.975
    assert findings.is_good_enough


def test_too_few_flawed_rows_dropped_is_not_good_enough():
    findings = judge_outcomes([*GOOD, *FLAWED, *[outcome("noise")] * 2])
    assert findings.flawed.share < 0.95
    assert not findings.is_good_enough
    assert "noise                 2        0    0.0%" in findings_table(findings)


def test_too_few_good_rows_kept_is_not_good_enough():
    dropped = [outcome("good", "clip_similarity_below_min")] * 3
    assert not judge_outcomes([*GOOD, *FLAWED, *dropped]).is_good_enough


def test_bad_urls_do_not_count_among_the_flawed():
    findings = judge_outcomes([*GOOD, *[outcome("bad_url:gone", "http_gone")] * 100])
    assert findings.flawed.rows == 0
    assert findings.bad_urls.right == 100


def test_a_bad_url_under_another_reason_is_named():
    findings = judge_outcomes([*GOOD, *FLAWED, outcome("bad_url:gone", "http_not_found")])
    assert findings.surprises == ["bad_url:gone: expected http_gone, found http_not_found"]
    assert not findings.is_good_enough
    assert "NOT AS EXPECTED" in bad_url_table([outcome("bad_url:gone", "http_not_found")])


def test_a_repeated_row_that_was_kept_is_named():
    findings = judge_outcomes([*GOOD, *FLAWED, outcome("duplicate_row")])
    assert findings.surprises == ["duplicate_row: expected duplicate_row, found kept"]
