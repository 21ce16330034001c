"""Rules that compare rows: the best of the run, of a group and of a domain, with ties settled."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.pipelines.steps.select.cases import kept, ledger_of, reasons


def best(**options: object) -> dict[str, object]:
    return {"best_of": {"by": "aesthetic_v2", **options}}


def test_best_of_the_run_stay_across_shards(tmp_path: Path) -> None:
    scores = [3, 9, 1, 7, 5, 8, 2, 6, 4, 0]
    rows = [{"aesthetic_v2": score} for score in scores]
    ledger = ledger_of(tmp_path / "n", rows, rules=[best(num_images=3)], rows_per_shard=3)
    assert [scores[at] for at in kept(ledger)] == [9, 7, 8]
    assert reasons(ledger)[0] == "ranked_below_best"
    assert ledger["rule"][0].as_py() == "best 3 by aesthetic_v2"
    share = ledger_of(tmp_path / "f", rows, rules=[best(fraction=0.25)], rows_per_shard=3)
    assert [scores[at] for at in kept(share)] == [9, 7, 8]  # rounded up
    lowest = [best(num_images=2, prefer="lowest")]
    least = ledger_of(tmp_path / "l", rows, rules=lowest, rows_per_shard=3)
    assert [scores[at] for at in kept(least)] == [1, 0]
    everything = ledger_of(tmp_path / "e", rows, rules=[best(num_images=99)], rows_per_shard=3)
    assert len(kept(everything)) == 10


def test_fraction_is_of_the_rows_that_passed_the_rules_before_it(tmp_path: Path) -> None:
    rows = [{"aesthetic_v2": n, "width": n % 2, "punsafe": n / 10} for n in range(10)]
    before = {"column": "width", "min": 1}
    after = {"column": "punsafe", "max": 0.8}
    ledger = ledger_of(tmp_path, rows, rules=[before, best(fraction=0.4), after])
    assert kept(ledger) == [7]
    expected = {9: "punsafe_above_max", 5: "ranked_below_best", 8: "value_below_min"}
    assert {at: reasons(ledger)[at] for at in expected} == expected


def test_two_rankings_follow_each_other(tmp_path: Path) -> None:
    rows = [{"aesthetic_v2": n, "punsafe": n / 20} for n in range(20)]
    lowest = {"best_of": {"by": "punsafe", "num_images": 3, "prefer": "lowest"}}
    assert kept(ledger_of(tmp_path / "a", rows, rules=[best(num_images=8), lowest])) == [12, 13, 14]
    assert kept(ledger_of(tmp_path / "b", rows, rules=[lowest, best(num_images=2)])) == [1, 2]


def test_equal_scores_are_settled_by_the_key_and_null_is_the_worst(tmp_path: Path) -> None:
    keys = ["ff", "01", "80", "7f"]
    rows = [{"aesthetic_v2": 5.0, "key": f"{key}{n:014x}"} for n, key in enumerate(keys)]
    rows += [{"aesthetic_v2": None, "key": "0" * 16}]
    ledger = ledger_of(tmp_path / "a", rows, rules=[best(num_images=2)], rows_per_shard=2)
    assert kept(ledger) == [1, 3]
    ledger = ledger_of(tmp_path / "b", rows, rules=[best(num_images=4)], rows_per_shard=2)
    assert kept(ledger) == [0, 1, 2, 3]


def test_keys_of_any_kind_settle_ties_in_plan_order_where_they_begin_alike(tmp_path: Path) -> None:
    keys = ["a photo-1", "a photo-0", "a cat", "ünï-3"]
    rows = [{"aesthetic_v2": 1.0, "key": key} for key in keys]
    ledger = ledger_of(tmp_path, rows, rules=[best(num_images=2)])
    assert kept(ledger) == [0, 2]


def test_best_of_each_group_lie_in_any_shard(tmp_path: Path) -> None:
    groups = ["a", "b", "a", "c", "b", "a", "a", "b"]
    scores = [1, 5, 3, 2, 6, 2, 4, 6]
    rows = [
        {"prompt_key": group, "aesthetic_v2": score}
        for group, score in zip(groups, scores, strict=True)
    ]
    rows += [{"prompt_key": None, "aesthetic_v2": 0}] * 2
    rules = [best(num_images=1, per="prompt_key")]
    ledger = ledger_of(tmp_path / "n", rows, rules=rules, rows_per_shard=3)
    assert kept(ledger) == [3, 4, 6, 8, 9]  # of the two b of score 6 the lesser key
    assert ledger["rule"][0].as_py() == "best 1 of prompt_key by aesthetic_v2"
    rules = [best(fraction=0.5, per="prompt_key")]
    half = ledger_of(tmp_path / "f", rows, rules=rules, rows_per_shard=3)
    assert kept(half) == [2, 3, 4, 6, 7, 8, 9]


def test_best_of_beside_the_thresholds_comes_after_them(tmp_path: Path) -> None:
    rows = [{"prompt_key": "a", "aesthetic_v2": n, "punsafe": n / 4} for n in range(4)]
    ledger = ledger_of(
        tmp_path,
        rows,
        thresholds={"punsafe": {"max": 0.5}},
        best_of={"by": "aesthetic_v2", "num_images": 1, "per": "prompt_key"},
    )
    assert kept(ledger) == [2]


def test_domain_has_a_cap(tmp_path: Path) -> None:
    urls = [
        "https://www.one.example/1",
        "https://two.example/1",
        "http://ONE.example:80/2",
        "https://one.example/3?x=1#y",
        None,
        None,
        "https://bücher.example/a",
        "https://xn--bcher-kva.example/b",
    ]
    rows = [{"url": url, "aesthetic_v2": n} for n, url in enumerate(urls)]
    first = ledger_of(tmp_path / "a", rows, rules=[{"domain_cap": {"num_images": 1}}])
    assert kept(first) == [0, 1, 4, 5, 6]
    assert reasons(first)[2] == "domain_over_cap"
    cap = {"num_images": 1, "by": "aesthetic_v2"}
    best_first = ledger_of(tmp_path / "b", rows, rules=[{"domain_cap": cap}])
    assert kept(best_first) == [1, 3, 4, 5, 7]


@pytest.mark.parametrize("per", [None, "source_group"])
def test_many_rows_agree_with_a_plain_sort(tmp_path: Path, per: str | None) -> None:
    random = np.random.default_rng(0)
    rows = [
        {
            "source_score": float(random.integers(-3, 4)) if n % 11 else math.nan,
            "source_group": str(random.integers(0, 5)),
            "key": f"{random.integers(0, 2**40):016x}",
        }
        for n in range(300)
    ]

    def order(at: int) -> tuple[float, str, int]:
        score = rows[at]["source_score"]
        return (math.inf if math.isnan(score) else -score, rows[at]["key"], at)

    expected: list[int] = []
    for group in {row["source_group"] if per else None for row in rows}:
        members = [at for at in range(300) if not per or rows[at]["source_group"] == group]
        expected += sorted(members, key=order)[:37]
    rule = {"best_of": {"by": "source_score", "num_images": 37, "per": per}}
    assert kept(ledger_of(tmp_path, rows, rules=[rule], rows_per_shard=70)) == sorted(expected)
