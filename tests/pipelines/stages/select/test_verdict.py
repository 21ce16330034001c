"""Verdicts: the first that fails is the reason, and nothing that is no number passes unseen."""

import math

import pyarrow as pa
import pytest

from pipelines.config import ConfigError, validate_config
from pipelines.ledger import DOWNLOAD_FACTS, LEDGER, REASONS, SCORE_FACTS, SCORES
from pipelines.stages.select import SelectConfig, Threshold, check_thresholds



def facts(num_rows: int, **columns: object) -> pa.Table:
    """Facts of stored rows; `source_` columns and reasons as given."""
    given: dict[str, object] = {
        "shard_id": [0] * num_rows,
        "row": list(range(num_rows)),
        "key": [f"{n:016x}" for n in range(num_rows)],
        "status": ["success"] * num_rows,
        **columns,
    }
    fields = list(DOWNLOAD_FACTS)
    arrays = [pa.array(given.get(f.name, [None] * num_rows), f.type) for f in fields]
    for name, values in given.items():
        if name.startswith("source_"):
            arrays.append(values if isinstance(values, pa.Array) else pa.array(values))
            fields.append(pa.field(name, arrays[-1].type))
    return pa.table(arrays, schema=pa.schema(fields))


def scores(rows: list[int], **columns: list[float | None]) -> pa.Table:
    given = {"shard_id": [0] * len(rows), "row": rows, "key": [f"{n:016x}" for n in rows]}
    return pa.table(
        [pa.array((given | columns).get(f.name, [None] * len(rows)), f.type) for f in SCORE_FACTS],
        schema=SCORE_FACTS,
    )


def reasons(joined: pa.Table, **thresholds: Threshold) -> list[str | None]:
    return list(judge(joined, SelectConfig(thresholds=thresholds)).reason)


def test_first_failing_threshold_is_the_reason_and_names_its_rule() -> None:
    joined = join_scores(
        facts(4),
        scores([0, 1, 2, 3], aesthetic_v2=[1, 9, 1, 9], punsafe=[0.9, 0.9, 0.1, 0.1]),
    )
    config = SelectConfig(
        thresholds={"punsafe": Threshold(max=0.5), "aesthetic_v2": Threshold(min=5)}
    )
    verdict = judge(joined, config)
    assert list(verdict.reason) == [
        "punsafe_above_max",
        "punsafe_above_max",
        "aesthetic_v2_below_min",
        None,
    ]
    assert verdict.rule[0] == "punsafe <= 0.5"
    assert verdict.rule[2] == "aesthetic_v2 >= 5"
    assert list(verdict.passed) == [False, False, False, True]
    swapped = SelectConfig(thresholds=dict(reversed(config.thresholds.items())))
    assert judge(joined, swapped).reason[0] == "aesthetic_v2_below_min"


def test_downloads_reason_stands_whatever_the_thresholds_say() -> None:
    table = facts(2, reason=["http_gone", "url_blocked"], rule=[None, "a list"])
    verdict = judge(join_scores(table, None), SelectConfig(thresholds={"width": Threshold(min=1)}))
    assert list(verdict.reason) == ["http_gone", "url_blocked"]
    assert list(verdict.rule) == [None, "a list"]


def test_bounds_are_inclusive_in_the_columns_own_precision() -> None:
    joined = join_scores(facts(3), scores([0, 1, 2], punsafe=[0.1, 0.5, 0.7]))
    assert reasons(joined, punsafe=Threshold(max=0.1))[0] is None
    assert reasons(joined, punsafe=Threshold(min=0.7))[2] is None
    assert reasons(joined, punsafe=Threshold(min=0.5, max=0.5))[1] is None


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_score_that_is_not_finite_is_dropped_without_any_threshold(
    score: str, value: float
) -> None:
    joined = join_scores(facts(2), scores([0, 1], **{score: [value, 0.5]}))
    verdict = judge(joined, SelectConfig())
    assert list(verdict.reason) == ["score_not_finite", None]
    assert verdict.rule[0] == score


def test_null_is_missing_and_may_be_kept() -> None:
    joined = join_scores(facts(2), scores([0], aesthetic_v2=[9.0]))
    assert reasons(joined, aesthetic_v2=Threshold(min=5)) == [None, "value_missing"]
    assert reasons(joined, aesthetic_v2=Threshold(min=5, missing="keep")) == [None, None]


def test_threshold_on_a_score_nobody_asked_for_drops_every_row_as_missing() -> None:
    joined = join_scores(facts(2), scores([0, 1]))
    verdict = judge(joined, SelectConfig(thresholds={"punsafe": Threshold(max=0.5)}))
    assert list(verdict.reason) == ["value_missing"] * 2
    assert verdict.rule[0] == "punsafe is missing"


def test_list_column_that_is_nan_is_missing_and_one_that_is_infinite_is_out_of_bounds() -> None:
    joined = join_scores(facts(4, source_similarity=[math.nan, math.inf, -math.inf, 0.3]), None)
    found = reasons(joined, source_similarity=Threshold(min=0.2, max=0.9))
    assert found == ["value_missing", "value_above_max", "value_below_min", None]


def test_whole_numbers_beyond_a_doubles_precision_are_compared() -> None:
    joined = join_scores(facts(2, source_id=[2**60 + 1, 5]), None)
    assert reasons(joined, source_id=Threshold(max=100)) == ["value_above_max", None]


def test_boolean_column_counts_as_0_and_1() -> None:
    joined = join_scores(facts(3, source_flag=[True, False, None]), None)
    found = reasons(joined, source_flag=Threshold(min=1))
    assert found == [None, "value_below_min", "value_missing"]


def test_text_column_is_refused_even_where_it_holds_digits() -> None:
    joined = join_scores(facts(1, source_size=["12"]), None)
    with pytest.raises(ColumnError, match=r"thresholds\.source_size: the column is string, not"):
        reasons(joined, source_size=Threshold(min=1))


def test_column_that_the_list_lacks_is_refused_before_and_while_it_runs() -> None:
    config = SelectConfig(thresholds={"source_size": Threshold(min=1)})
    with pytest.raises(ColumnError, match="no such column; it has: source_width"):
        check_thresholds(config, {"source_width": "int64"})
    check_thresholds(config, {"source_size": "double"})
    with pytest.raises(ColumnError, match="holds string, not numbers"):
        check_thresholds(config, {"source_size": "string"})
    with pytest.raises(ColumnError, match="no such column; it has: none of its own"):
        judge(join_scores(facts(1), None), config)


def test_scores_join_by_row_whatever_their_order() -> None:
    joined = join_scores(facts(4), scores([3, 1], aesthetic_v1=[30.0, 10.0]))
    assert joined["aesthetic_v1"].to_pylist() == [None, 10.0, None, 30.0]


def test_ledger_has_the_schema_and_kept_is_a_null_reason() -> None:
    table = facts(3, reason=["http_gone", None, None], source_width=[1, 2, 3])
    joined = join_scores(table, scores([1, 2], aesthetic_v2=[4.0, 6.0]))
    verdict = judge(joined, SelectConfig(thresholds={"aesthetic_v2": Threshold(min=5)}))
    ledger = ledger_table(joined, verdict)
    assert ledger.schema.names == [*LEDGER.names, "source_width"]
    assert [f.type for f in ledger.schema][: len(LEDGER)] == LEDGER.types
    assert ledger["kept"].to_pylist() == [False, False, True]
    assert ledger["reason"].to_pylist() == ["http_gone", "aesthetic_v2_below_min", None]
    assert ledger["aesthetic_v2"].to_pylist() == [None, 4.0, 6.0]


@pytest.mark.parametrize("column", [*SCORES, "width", "original_height", "source_any"])
def test_every_reason_of_a_threshold_is_in_the_closed_list(column: str) -> None:
    stem = column if column in SCORES else "value"
    assert {f"{stem}_below_min", f"{stem}_above_max"} <= REASONS
    SelectConfig(thresholds={column: Threshold(min=1)})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"thresholds": {"width": {}}}, "thresholds.width: a threshold needs min, max or both"),
        ({"thresholds": {"width": {"min": 3, "max": 2}}}, "min 3.0 is above max 2.0"),
        ({"thresholds": {"widht": {"min": 3}}}, "thresholds.widht: not a numeric column"),
        ({"thresholds": {"url": {"min": 3}}}, "thresholds.url: not a numeric column"),
        ({"thresholds": {"row": {"min": 3}}}, "thresholds.row: not a numeric column"),
        ({"duplicates": "phash"}, "duplicates: input should be 'sha256' or 'off', got 'phash'"),
    ],
)
def test_rules_that_make_no_sense_are_refused(tree: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=r"1 problem\(s\)") as caught:
        validate_config(SelectConfig, tree, where="select")
    assert message in str(caught.value)


@pytest.mark.parametrize("bound", [math.nan, math.inf])
def test_bound_that_is_not_finite_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="min must be a finite number"):
        Threshold(min=bound)
