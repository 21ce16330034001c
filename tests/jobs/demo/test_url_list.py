"""Bad URLs among the good."""

import pytest

from jobs.demo.bad_urls import BAD_URLS
from jobs.demo.url_list import ListRow, bad_url_rows, choose_bad_urls, mix


def test_every_reason_comes_before_a_second_url_of_any():
    reasons = {bad.reason for bad in BAD_URLS.values()}
    first = choose_bad_urls(len(reasons))
    assert {BAD_URLS[name].reason for name in first} == reasons


def test_all_of_them_are_each_kind_once():
    assert sorted(choose_bad_urls(len(BAD_URLS))) == sorted(BAD_URLS)


def test_more_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=f"there are {len(BAD_URLS)}"):
        choose_bad_urls(len(BAD_URLS) + 1)


def test_mixing_keeps_the_order_of_the_rows_and_loses_none():
    rows = [ListRow(url=f"u{n}", caption="c", planted="good") for n in range(50)]
    bad = bad_url_rows(["gone", "private"], server="http://127.0.0.1:8000")
    mixed = mix(rows, bad, seed=1)
    assert [row for row in mixed if row.planted == "good"] == rows
    assert {row.url for row in mixed} >= {"http://127.0.0.1:8000/bad/gone"}
    assert len(mixed) == 52
