"""However work on threads ends, none of it goes on."""

import threading
import time

import pytest

from pipelines.run.on_threads import in_order


def test_where_the_taker_fails_no_thread_works_on_of_it_or_of_what_it_takes_from() -> None:
    before = set(threading.enumerate())
    made = in_order(lambda number: (time.sleep(0.01), number)[1], range(1000), num_threads=2)

    def commit(number: int) -> int:
        if number == 3:
            raise KeyError("commit")
        return number

    with pytest.raises(KeyError, match="commit"):
        for _ in in_order(commit, made, num_threads=2):
            pass
    assert set(threading.enumerate()) == before
    assert next(made, None) is None
