"""Conditions in SQL: on one row, checked before the run, out of reach of files and network."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.config import ConfigError
from pipelines.rules.conditions import Condition
from tests.pipelines.steps.select.cases import kept, ledger_of, reasons

TYPES = {"width": pa.int32(), "height": pa.int32(), "caption": pa.string(), "url": pa.string()}


def met(sql: str, **columns: list[object]) -> list[bool]:
    arrays = {name: pa.array(values, TYPES[name]) for name, values in columns.items()}
    return Condition(sql, where="rules.0").met(pa.table(arrays)).tolist()


def test_condition_holds_row_by_row_and_null_is_not_met() -> None:
    widths, heights = [3, 5, None, 7], [4, 4, 4, None]
    assert met("width > height", width=widths, height=heights) == [False, True, False, False]
    assert met("coalesce(width, 9) > 4", width=widths) == [False, True, True, True]
    assert met("caption ilike '%Cat%' -- note", caption=["a cat", "dog", None]) == [1, 0, 0]


def test_dropped_rows_are_named_and_rows_dropped_before_are_not_asked(tmp_path: Path) -> None:
    rows = [{"source_n": "12"}, {"source_n": "x", "width": 1}, {"source_n": "3"}, {}]
    rules = [
        {"column": "width", "max": 0, "missing": "keep"},
        {"sql": "source_n::int > 5", "name": "n above 5"},
    ]
    ledger = ledger_of(tmp_path, rows, rules=rules)
    assert reasons(ledger) == [None, "value_above_max", *["condition_not_met"] * 2]
    assert ledger["rule"][2].as_py() == "n above 5"
    assert kept(ledger) == [0]


def test_condition_that_fails_on_a_row_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"select\.rules\.0\.sql: Conversion Error: .*'x'"):
        ledger_of(tmp_path, [{"source_n": "x"}], rules=[{"sql": "source_n::int > 5"}])


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("width >", "Parser Error"),
        ("width > 1; drop table x", "more than one statement"),
        ("width > 1) or (true", "Parser Error"),
        ("width > 1 limit 1", "Parser Error"),
        ("widht > 1", "no column 'widht'; allowed: width, height"),
        ("width > 'many'", "Conversion Error"),
        ("caption > 1 + width", "Error"),
        ("nonsense(width)", "nonsense does not exist"),
        ("width > avg(width)", "aggregates"),
        ("row_number() over () < 3", "a window function"),
        ("width > (select 1)", "a subquery"),
        ("exists(from read_csv('/etc/passwd'))", "a subquery"),
        ("random() > 0.5", "another at every run"),
        ("now() > '2020-01-01'", "another at every run"),
        ("width > $1", "a parameter"),
        ("current_date > '2020-01-01'", "no column 'current_date'"),
    ],
)
def test_what_is_no_condition_on_a_row_is_refused_before_the_run(sql: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"rules\.0\.sql: ") as caught:
        Condition(sql, where="rules.0").check(TYPES)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "read_text('/etc/passwd') is not null",
        "getenv('HOME') is not null",
        "caption in (from '/etc/passwd')",
        "caption = (select content from read_text('https://example.org/'))",
    ],
)
def test_files_and_network_are_out_of_reach(sql: str) -> None:
    with pytest.raises(ConfigError):
        Condition(sql, where="rules.0").check(TYPES)
