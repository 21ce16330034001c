"""Rules before the fetch: one identity whichever way they are written; a language told once."""

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.config import validate_config
from pipelines.rows import caption_facts
from pipelines.rules.before_fetch import BeforeFetch
from pipelines.workflows.curate import CurateConfig

OFF = {
    **dict.fromkeys(("min_width", "min_height", "min_side", "max_aspect", "min_similarity")),
    **dict.fromkeys(("max_punsafe", "max_pwatermark")),
    **dict.fromkeys(("min_caption_chars", "min_caption_words", "max_caption_chars")),
    "missing_values": "keep",
}
"""What earlier versions recorded of a run without rules."""


def before_fetch(**tree: Any) -> BeforeFetch:
    """As the configuration says."""
    job = {"output": "/nowhere", "source": {"path": "/nowhere/list.csv"}, **tree}
    return validate_config(CurateConfig, job, where="curate.yaml").before_fetch


def new(*rules: dict[str, Any]) -> BeforeFetch:
    return before_fetch(download={"rules": rules})


SPELLINGS: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    ({}, []),
    ({"min_width": 3}, [{"claimed": "width", "min": 3}]),
    ({"min_height": 3}, [{"claimed": "height", "min": 3.0}]),
    (
        {"max_aspect": 3.0, "min_similarity": 0.28},
        [{"claimed": "aspect", "max": 3}, {"claimed": "similarity", "min": 0.28}],
    ),
    (
        {"max_punsafe": 0, "max_pwatermark": 0.5, "missing_values": "drop"},
        [
            {"claimed": "punsafe", "max": 0, "missing": "drop"},
            {"claimed": "pwatermark", "max": 0.5, "missing": "drop"},
        ],
    ),
    (
        {"min_caption_chars": 0, "min_caption_words": 2, "max_caption_chars": 99},
        [
            {"caption": "characters", "min": 0},
            {"caption": "words", "min": 2},
            {"caption": "characters", "max": 99},
        ],
    ),
]


@pytest.mark.parametrize(("old", "rules"), SPELLINGS)
def test_the_old_spelling_and_the_new_are_one_identity_and_it_is_the_old_one(
    old: dict[str, Any], rules: list[dict[str, Any]], tmp_path: Path
) -> None:
    recorded = {"rules": {**OFF, **old}, "block": ""}
    assert before_fetch(rules=old).identity() == new(*rules).identity() == recorded
    (tmp_path / "domains.txt").write_text("bad.example\n")
    block = {"domains": str(tmp_path / "domains.txt")}
    listed = before_fetch(rules=old, block=block).identity()
    assert listed["block"]
    assert listed["rules"] == recorded["rules"]
    assert new(*rules, {"block": block}).identity() == listed


SIDE, DARK = {"claimed": "side", "min": 3}, {"claimed": "punsafe", "max": 0.5}


@pytest.mark.parametrize(
    "rules",
    [
        [DARK, SIDE],
        [{**SIDE, "name": "big"}],
        [{**SIDE, "missing": "drop"}, DARK],
        [{**SIDE, "min": 3.5}],
        [SIDE, SIDE],
        [SIDE, {"column": "caption_language", "one_of": ["en"]}],
    ],
)
def test_what_the_old_keys_could_not_say_is_an_identity_of_its_own(
    rules: list[dict[str, Any]],
) -> None:
    identity = new(*rules).identity()
    assert isinstance(identity["rules"], list)
    others = [new(SIDE), new(DARK), new(SIDE, DARK), new()]
    assert identity not in [other.identity() for other in others]


def test_a_block_list_is_known_by_what_it_holds(tmp_path: Path) -> None:
    for name, text in (("a", "one.example\n"), ("b", "one.example\n"), ("c", "two.example\n")):
        (tmp_path / name).write_text(text)
    first, same, other = (
        new({"block": {"domains": str(tmp_path / name)}, "name": "asked"}) for name in "abc"
    )
    assert first.identity() == same.identity() != other.identity()


def test_a_language_is_told_once_a_caption_and_only_where_a_rule_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str | None] = []
    languages = caption_facts._languages

    def count(texts: Any) -> Any:
        asked.extend(texts)
        return languages(texts)

    monkeypatch.setattr(caption_facts, "_languages", count)
    captions = ["an old tree in the meadow", None, "die Katze schläft am Ofen"]
    rows = pa.table({"caption": captions, "reason": pa.nulls(3, pa.string())})
    assert new({"caption": "words", "min": 1}).judge(rows).facts == {}
    assert asked == []
    rule = {"column": "caption_language", "one_of": ["en"]}
    rules = pickle.loads(pickle.dumps(new(rule, {"sql": "Caption_Language <> 'fr'"})))
    settled = rules.judge(rows)
    assert settled.reason.to_pylist() == [None, "value_missing", "value_not_allowed"]
    assert settled.facts["caption_language"].to_pylist() == ["en", None, "de"]
    assert asked == captions


def test_rows_that_have_a_reason_are_not_judged() -> None:
    rows = pa.table(
        {"caption": ["a", "b"], "source_n": ["x", "7"], "reason": ["duplicate_row", None]}
    )
    settled = new({"sql": "source_n::int > 8"}).judge(rows)
    assert settled.reason.to_pylist() == [None, "condition_not_met"]
    assert settled.error_message.to_pylist() == [None, None]
