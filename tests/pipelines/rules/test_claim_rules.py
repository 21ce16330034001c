"""Rules on the list's own columns, in the old spelling and the new."""

import math
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipelines.config import ConfigError
from pipelines.rows.caption_facts import EVERY_CAPTION_FACT
from pipelines.rows.ledger import LIST_REASONS
from pipelines.rules.before_fetch import BeforeFetch, Settled
from pipelines.rules.block_lists import BlockConfig
from pipelines.rules.old_keys import RulesConfig, old_rules

ROWS = pa.table(
    {
        "caption": ["a fine cat", "cat", None, "x" * 50, "naïve 漢字 é"],
        "source_width": pa.array([512.0, 255.0, 1024.0, None, math.nan]),
        "source_height": pa.array([512.0, 900.0, 100.0, 512.0, 0.0]),
        "source_similarity": ["0.3", "0.2", " 0.31 ", "n/a", None],
        "source_punsafe": pa.array([0.1, 0.5, 0.500001, None, 0.0], pa.float64()),
        "source_pwatermark": pa.array([0.1, 0.9, 0.8, None, 0.0], pa.float64()),
    }
)


def before_fetch(config: RulesConfig) -> BeforeFetch:
    return BeforeFetch(rules=old_rules(config, BlockConfig()))


def apply_rules(rows: pa.Table, config: RulesConfig) -> Settled:
    reason = pa.nulls(rows.num_rows, pa.string())
    return before_fetch(config).judge(rows.append_column("reason", reason))


def _broken(**options: Any) -> list[tuple[int, str, str]]:
    verdicts = apply_rules(ROWS, RulesConfig(**options))
    pairs = zip(verdicts.reason.to_pylist(), verdicts.rule.to_pylist(), strict=True)
    return [(row, reason, rule) for row, (reason, rule) in enumerate(pairs) if reason]


@pytest.mark.parametrize(
    ("options", "rows", "reason", "rule"),
    [
        ({"min_width": 256}, [1], "claimed_size_below_min", "claimed width >= 256"),
        ({"min_height": 256}, [2, 4], "claimed_size_below_min", "claimed height >= 256"),
        ({"min_side": 256}, [1, 2], "claimed_size_below_min", "claimed shorter side >= 256"),
        ({"max_aspect": 3.0}, [1, 2], "claimed_aspect_above_max", "claimed aspect <= 3"),
        (
            {"min_similarity": 0.28},
            [1],
            "claimed_similarity_below_min",
            "claimed similarity >= 0.28",
        ),
        ({"max_punsafe": 0.5}, [2], "claimed_punsafe_above_max", "claimed punsafe <= 0.5"),
        (
            {"max_pwatermark": 0.8},
            [1],
            "claimed_pwatermark_above_max",
            "claimed pwatermark <= 0.8",
        ),
        ({"min_caption_chars": 6}, [1, 2], "caption_too_short", "caption characters >= 6"),
        ({"min_caption_words": 3}, [1, 2, 3], "caption_too_short", "caption words >= 3"),
        ({"max_caption_chars": 49}, [3], "caption_too_long", "caption characters <= 49"),
    ],
)
def test_rule_drops_its_rows_and_names_itself(
    options: dict[str, Any], rows: list[int], reason: str, rule: str
) -> None:
    assert _broken(**options) == [(row, reason, rule) for row in rows]
    assert reason in LIST_REASONS


def test_missing_claims_pass_unless_they_are_to_be_dropped() -> None:
    assert _broken(min_width=1) == []
    reason, rule = "claimed_size_below_min", "claimed width >= 1"
    assert _broken(min_width=1, missing_values="drop") == [(3, reason, rule), (4, reason, rule)]


def test_claimed_side_of_zero_has_no_bounded_aspect() -> None:
    rows = pa.table({"caption": ["a"], "source_width": [9], "source_height": [0]})
    verdicts = apply_rules(rows, RulesConfig(max_aspect=3.0))
    assert verdicts.reason.to_pylist() == ["claimed_aspect_above_max"]


def test_first_broken_rule_is_the_verdict() -> None:
    found = _broken(min_width=256, max_pwatermark=0.8, min_caption_words=2)
    assert found == [
        (1, "claimed_size_below_min", "claimed width >= 256"),
        (2, "caption_too_short", "caption words >= 2"),
        (3, "caption_too_short", "caption words >= 2"),
    ]


def test_without_rules_every_row_passes() -> None:
    assert _broken() == []
    empty = apply_rules(ROWS.slice(0, 0), RulesConfig(min_width=1, min_caption_words=1))
    assert len(empty.reason) == len(empty.rule) == 0


def test_rule_without_its_column_is_an_error_that_lists_the_columns() -> None:
    with pytest.raises(ConfigError) as error:
        before_fetch(RulesConfig(min_width=1, max_aspect=2.0, max_punsafe=0.5)).check(
            {"source_width": "int64", "source_hash": "int64"}, EVERY_CAPTION_FACT
        )
    message = str(error.value)
    assert "2 problem(s)" in message
    assert "rules.max_aspect: the list has no 'height' column" in message
    assert "rules.max_punsafe: the list has no 'punsafe' column" in message
    assert "columns are: width, hash" in message
    assert "min_width" not in message


@pytest.mark.parametrize("options", [{"min_width": 0}, {"max_punsafe": 1.5}, {"min_widht": 3}])
def test_values_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RulesConfig(**options)
