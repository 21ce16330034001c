"""Rules on single rows: the first that fails is the reason, and no missing value passes unseen."""

import math
from pathlib import Path

import pytest

from pipelines.config import ConfigError
from pipelines.rows.ledger import REASONS, SCORES
from pipelines.rules.presets import RULE_PRESETS
from pipelines.steps.select import SelectConfig, Threshold, check_select
from tests.pipelines.steps.select.cases import kept, ledger_of, reasons, select_config


def test_first_failing_rule_is_the_reason_and_is_named(tmp_path: Path) -> None:
    rows = [
        {"aesthetic_v2": 1, "punsafe": 0.9},
        {"aesthetic_v2": 9, "punsafe": 0.9},
        {"aesthetic_v2": 1, "punsafe": 0.1},
        {"aesthetic_v2": 9, "punsafe": 0.1},
    ]
    ledger = ledger_of(
        tmp_path / "a",
        rows,
        thresholds={"punsafe": {"max": 0.5}},
        rules=[{"column": "aesthetic_v2", "min": 5, "name": "fair"}],
    )
    assert reasons(ledger) == [*["punsafe_above_max"] * 2, "aesthetic_v2_below_min", None]
    assert ledger["rule"].to_pylist() == ["punsafe <= 0.5", "punsafe <= 0.5", "fair", None]
    swapped = ledger_of(
        tmp_path / "b",
        rows,
        rules=[{"column": "aesthetic_v2", "min": 5}, {"column": "punsafe", "max": 0.5}],
    )
    assert reasons(swapped)[0] == "aesthetic_v2_below_min"


def test_downloads_reason_stands_whatever_the_rules_say(tmp_path: Path) -> None:
    rows = [{"reason": "http_gone"}, {"reason": "url_blocked", "rule": "a list"}, {}]
    ledger = ledger_of(tmp_path, rows, thresholds={"width": {"min": 1}})
    assert reasons(ledger) == ["http_gone", "url_blocked", "value_missing"]
    assert ledger["rule"].to_pylist() == [None, "a list", "width is missing"]


def test_bounds_are_inclusive_or_not_in_the_columns_own_precision(tmp_path: Path) -> None:
    rows = [{"punsafe": 0.1}, {"punsafe": 0.5}, {"punsafe": 0.7}]
    cuts = {
        "max": ({"max": 0.1}, [0]),
        "min": ({"min": 0.7}, [2]),
        "both": ({"min": 0.5, "max": 0.5}, [1]),
        "above": ({"above": 0.5}, [2]),
        "below": ({"below": 0.5}, [0]),
    }
    for name, (bounds, expected) in cuts.items():
        ledger = ledger_of(tmp_path / name, rows, thresholds={"punsafe": bounds})
        assert kept(ledger) == expected, name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_score_that_is_not_finite_is_dropped_without_any_threshold(
    tmp_path: Path, value: float
) -> None:
    rows = [{score: value} for score in SCORES] + [{SCORES[0]: 0.5}]
    ledger = ledger_of(tmp_path, rows)
    assert reasons(ledger) == ["score_not_finite"] * len(SCORES) + [None]
    assert ledger["rule"].to_pylist() == [*SCORES, None]


def test_null_is_missing_and_may_be_kept(tmp_path: Path) -> None:
    rows = [{"aesthetic_v2": 9.0}, {}]
    dropped = ledger_of(tmp_path / "a", rows, thresholds={"aesthetic_v2": {"min": 5}})
    assert reasons(dropped) == [None, "value_missing"]
    keep = {"aesthetic_v2": {"min": 5, "missing": "keep"}}
    assert kept(ledger_of(tmp_path / "b", rows, thresholds=keep)) == [0, 1]


def test_list_column_may_be_nan_infinite_long_or_boolean(tmp_path: Path) -> None:
    values = [math.nan, math.inf, -math.inf, 0.3]
    rows = [
        {"source_similarity": value, "source_id": number, "source_flag": flag}
        for value, number, flag in zip(values, [2**60 + 1, 5, 6, 7], [0, 1, None, 1], strict=True)
    ]
    for row in rows:
        row["source_flag"] = None if row["source_flag"] is None else bool(row["source_flag"])
    cuts = {
        "similarity": ({"source_similarity": {"min": 0.2, "max": 0.9}}, "missing above below"),
        "id": ({"source_id": {"max": 100}}, "above"),
        "flag": ({"source_flag": {"min": 1}}, "below - missing"),
    }
    names = {"missing": "value_missing", "above": "value_above_max", "below": "value_below_min"}
    for name, (thresholds, expected) in cuts.items():
        found = reasons(ledger_of(tmp_path / name, rows, thresholds=thresholds))
        wanted = [names.get(word) for word in expected.split()]
        assert found == wanted + [None] * (4 - len(wanted)), name


def test_text_column_has_one_of_the_values(tmp_path: Path) -> None:
    rows = [{"source_licence": value} for value in ("CC0", "CC-BY", "none", None)]
    rule = {"column": "source_licence", "one_of": ["CC0", "CC-BY"]}
    ledger = ledger_of(tmp_path / "a", rows, rules=[rule])
    assert reasons(ledger) == [None, None, "value_not_allowed", "value_missing"]
    assert ledger["rule"][2].as_py() == "source_licence is CC0 or CC-BY"
    lenient = ledger_of(tmp_path / "b", rows, rules=[{**rule, "missing": "keep"}])
    assert kept(lenient) == [0, 1, 3]


def test_words_and_phrases_are_blocked_whole_and_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# words\nVIOLET\nstock photo\nÉTÉ\n水印\n")
    captions = {
        "a Violet flower": True,
        "violets are blue": False,
        "Stock-Photo of a tree": True,
        "a photo in stock": False,
        "un e\u0301te\u0301 ici": True,  # NFD
        "图片水印在这里": True,
        "stock a photo": False,
        "": False,
    }
    rows = [{"caption": caption} for caption in captions] + [{"caption": None}]
    rule = {"block_words": str(tmp_path / "words.txt")}
    ledger = ledger_of(tmp_path / "run", rows, rules=[rule], rows_per_shard=5)
    blocked = [reason == "word_blocked" for reason in reasons(ledger)]
    assert blocked == [*captions.values(), False]


def test_keys_are_blocked(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("mine-3\nabc # not a comment\n")
    rows = [{"key": "mine-3"}, {"key": "abc"}, {}]
    rule = {"block_keys": str(tmp_path / "keys.txt"), "name": "asked to leave out"}
    ledger = ledger_of(tmp_path / "run", rows, rules=[rule])
    assert reasons(ledger) == ["key_blocked", None, None]
    assert ledger["rule"][0].as_py() == "asked to leave out"


def test_presets_are_the_published_cuts(tmp_path: Path) -> None:
    good = {"aesthetic_v2": 5.1, "original_width": 512, "original_height": 600, "pwatermark": 0.4}
    rows = [
        good,
        {**good, "aesthetic_v2": 5.0},
        {**good, "original_height": 511},
        {**good, "pwatermark": 0.5},
        {**good, "pwatermark": None},
    ]
    ledger = ledger_of(tmp_path / "a", rows, rules=[{"preset": "stable_diffusion_1"}])
    assert kept(ledger) == [0]
    assert ledger["rule"].to_pylist()[1:3] == [
        "stable_diffusion_1: aesthetic_v2 > 5",
        "stable_diffusion_1: original_height >= 512",
    ]
    lenient = {"preset": "stable_diffusion_1", "missing": "keep"}
    assert kept(ledger_of(tmp_path / "b", rows, rules=[lenient])) == [0, 4]


@pytest.mark.parametrize("preset", RULE_PRESETS)
def test_every_preset_can_be_named(preset: str) -> None:
    rules = select_config(rules=[{"preset": preset}]).ordered_rules()
    assert rules
    assert all(rule.name and rule.name.startswith(preset) for _, rule in rules)


@pytest.mark.parametrize("column", [*SCORES, "width", "original_height", "source_any"])
def test_every_reason_of_a_threshold_is_in_the_closed_list(column: str) -> None:
    stem = column if column in SCORES else "value"
    assert {f"{stem}_below_min", f"{stem}_above_max"} <= REASONS
    SelectConfig(thresholds={column: Threshold(min=1)})


SOURCES = {"source_width": "int64", "source_licence": "string"}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"column": "source_size", "min": 1}, r"rules\.0: no column 'source_size'; allowed: .*row"),
        ({"column": "source_licence", "min": 1}, "source_licence holds string, not numbers"),
        ({"column": "source_width", "one_of": ["x"]}, r"rules\.0: no column 'source_width'; allo"),
        ({"column": "kept", "min": 1}, "no column 'kept'"),
        ({"best_of": {"by": "caption", "num_images": 1}}, "caption holds string, not numbers"),
        ({"best_of": {"by": "width", "num_images": 1, "per": "x"}}, r"best_of\.per: no column 'x'"),
        ({"domain_cap": {"num_images": 1, "by": "x"}}, r"domain_cap\.by: no column 'x'"),
        ({"block_words": "/nowhere/words"}, r"select\.rules\.0 /nowhere/words: cannot be read"),
        ({"block_keys": "/nowhere/keys"}, r"select\.rules\.0 /nowhere/keys: cannot be read"),
        ({"sql": "source_size > 1"}, r"rules\.0\.sql: no column 'source_size'; allowed: "),
    ],
)
def test_rules_that_the_run_does_not_allow_are_refused_before_it(
    rule: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_select(select_config(rules=[rule]), SOURCES)


def test_rules_that_the_run_allows_are_let_through() -> None:
    rules = [
        {"column": "source_width", "min": 1},
        {"column": "source_licence", "one_of": ["x"]},
        {"sql": "source_width > 1 and source_licence like 'CC%'"},
        {"best_of": {"by": "source_width", "num_images": 1, "per": "source_licence"}},
    ]
    check_select(select_config(rules=rules, duplicates={"keep": "source_width"}), SOURCES)
    with pytest.raises(ConfigError, match=r"duplicates\.keep: no column 'nothing'"):
        check_select(select_config(duplicates={"keep": "nothing"}), SOURCES)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"thresholds": {"width": {}}}, "thresholds.width: a threshold needs min, max, above or"),
        ({"thresholds": {"width": {"min": 3, "max": 2}}}, "min 3.0 is above max 2.0"),
        ({"rules": [{"colum": "width"}]}, "rules.0: a rule has one of the keys sql, preset,"),
        ({"rules": [{"column": "width", "minn": 2}]}, "rules.0.minn: unknown key; did you mean"),
        ({"rules": [{"preset": "laion"}]}, "rules.0: preset 'laion': allowed: laion_aesthetic_v1"),
        ({"rules": [{"best_of": {"by": "width"}}]}, "best_of needs num_images or fraction"),
        ({"rules": [{"column": "a", "min": 1, "one_of": ["b"]}]}, "one_of or bounds, not both"),
        ({"duplicates": "phash"}, "duplicates: input should be 'sha256' or 'off'"),
        ({"duplicates": {"by": ["url", "url"]}}, "url, url names one of them twice"),
        ({"duplicates": {"phash_distance": 12}}, "less than or equal to 11"),
    ],
)
def test_rules_that_make_no_sense_are_refused(tree: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select_config(**tree)
    assert message in str(caught.value)


@pytest.mark.parametrize("bound", [math.nan, math.inf])
def test_bound_that_is_not_finite_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="min must be a finite number"):
        Threshold(min=bound)


def test_identity_is_of_the_rules_whichever_way_they_are_written() -> None:
    rule = {"column": "width", "min": 3}
    first = select_config(thresholds={"width": {"min": 3}}, duplicates="sha256")
    assert first.identity() == select_config(rules=[rule], duplicates={"by": ["sha256"]}).identity()
    assert first.identity() != select_config(rules=[{**rule, "min": 4}]).identity()
    other = [rule, {"column": "height", "min": 3}]
    assert select_config(rules=other).identity() != select_config(rules=other[::-1]).identity()


def test_punsafe_and_pwatermark_are_the_lists_claim_else_the_heads(tmp_path: Path) -> None:
    rows = [
        {"source_punsafe": 0.75, "punsafe": 0.1},
        {"source_punsafe": None, "punsafe": 0.25},
        {"source_punsafe": float("nan"), "punsafe": None, "source_pwatermark": 0.5},
        {"source_punsafe": 0.0, "reason": "http_gone", "source_pwatermark": 0.25},
    ]
    rules = [{"column": "punsafe", "max": 0.5, "missing": "keep"}]
    ledger = ledger_of(tmp_path, rows, rules=rules)
    assert ledger["punsafe"].to_pylist() == [0.75, 0.25, None, 0.0]
    assert ledger["pwatermark"].to_pylist() == [None, None, 0.5, 0.25]
    assert reasons(ledger) == ["punsafe_above_max", None, None, "http_gone"]


def test_facts_of_captions_and_pixels_can_be_judged(tmp_path: Path) -> None:
    rows = [
        {"caption_language": "en", "caption_words": 4, "sharpness": 80.0},
        {"caption_language": "de", "caption_words": 4, "sharpness": 80.0},
        {"caption_language": "en", "caption_words": 2, "sharpness": 80.0},
        {"caption_language": "en", "caption_words": 4, "sharpness": 8.0},
    ]
    rules = [
        {"column": "caption_language", "one_of": ["en"]},
        {"column": "caption_words", "min": 3},
        {"column": "sharpness", "min": 10},
    ]
    found = reasons(ledger_of(tmp_path, rows, rules=rules))
    assert found == [None, "value_not_allowed", "value_below_min", "value_below_min"]


def test_a_row_that_a_condition_fails_on_is_dropped_alone(tmp_path: Path) -> None:
    years = ["1999", "2001", "around 2000", None, "x" * 9, "2005"]
    rows = [{"source_year": year} for year in years]
    rule = {"sql": "cast(source_year as int) > 2000", "name": "recent"}
    ledger = ledger_of(tmp_path / "run", rows, rules=[rule])
    assert reasons(ledger) == [
        "condition_not_met",
        None,
        "row_failed",
        "condition_not_met",
        "row_failed",
        None,
    ]
    messages = ledger["error_message"].to_pylist()
    assert [at for at, message in enumerate(messages) if message is not None] == [2, 4]
    assert messages[2].startswith("ConversionException: Conversion Error: Could not convert")
    assert "around 2000" in messages[2]
    assert "x" * 9 in messages[4]


def test_a_condition_that_fails_on_every_row_of_the_run_is_an_error(tmp_path: Path) -> None:
    rows = [{"source_year": "x"}, {"source_year": "y"}, {"source_year": "1"}]
    rule = {"sql": "cast(source_year as int) > 0"}
    with pytest.raises(ConfigError, match=r"select\.rules\.0\.sql: Conversion Error"):
        ledger_of(tmp_path / "bad", rows[:2], rules=[rule], rows_per_shard=1)
    # The shards before the one that shows that it can be evaluated are not given up.
    ledger = ledger_of(tmp_path / "run", rows, rules=[rule], rows_per_shard=1)
    assert reasons(ledger) == ["row_failed", "row_failed", None]


@pytest.mark.parametrize("sql", ["source_x * source_x > 0", "cast(source_x as smallint) < 9"])
def test_a_number_that_overflows_costs_its_row_alone(tmp_path: Path, sql: str) -> None:
    ledger = ledger_of(
        tmp_path / "run", [{"source_x": value} for value in (4, -1, 2**62, 2)], rules=[{"sql": sql}]
    )
    assert reasons(ledger) == [None, None, "row_failed", None]
    message = ledger["error_message"][2].as_py()
    assert message.startswith(("OutOfRangeException: ", "ConversionException: "))


def test_a_condition_names_columns_in_any_case(tmp_path: Path) -> None:
    rows = [{"caption": "a", "caption_words": 1}, {"caption": "a b", "caption_words": 2}]
    ledger = ledger_of(tmp_path / "run", rows, rules=[{"sql": "Caption_Words > 1"}])
    assert reasons(ledger) == ["condition_not_met", None]
