"""Reader, worker and writer at once."""

import threading
from collections.abc import Iterator

import pytest

from pipelines.steps.overlap import run_overlapped


def overlap_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("overlap")]


def test_results_are_written_in_order() -> None:
    written: list[int] = []
    run_overlapped(range(100), work=lambda n: n * n, write=written.append)
    assert written == [n * n for n in range(100)]
    assert overlap_threads() == []


def test_nothing_to_read_writes_nothing() -> None:
    written: list[int] = []
    run_overlapped([], work=lambda n: n, write=written.append)
    assert written == []


def test_the_three_parts_run_at_the_same_time() -> None:
    # Each part waits for the other two to be busy with other items: no deadlock, they overlap.
    barrier = threading.Barrier(3, timeout=10)

    def read() -> Iterator[int]:
        for number in range(5):
            if number >= 2:
                barrier.wait()
            yield number

    def work(number: int) -> int:
        if 1 <= number < 4:
            barrier.wait()
        return number

    def write(number: int) -> None:
        if number < 3:
            barrier.wait()

    run_overlapped(read(), work=work, write=write)


def test_work_runs_in_the_calling_thread() -> None:
    seen: set[int] = set()
    run_overlapped(range(3), work=lambda _: seen.add(threading.get_ident()), write=lambda _: None)
    assert seen == {threading.get_ident()}


def test_reading_stays_within_its_bound() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            read.append(number)
            yield number

    ahead: list[int] = []
    run_overlapped(
        items(), work=lambda n: ahead.append(len(read) - n), write=lambda _: None, max_queued=2
    )
    assert max(ahead) <= 4  # in work, two queued, one in the reader's hand


@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_a_failure_anywhere_is_raised_and_ends_the_threads(stage: str) -> None:
    closed: list[bool] = []

    def fail_at(name: str, number: int) -> int:
        if name == stage and number == 3:
            raise KeyError(name)
        return number

    def read() -> Iterator[int]:
        try:
            for number in range(1000):
                yield fail_at("read", number)
        finally:
            closed.append(True)

    written: list[int] = []

    def write(number: int) -> None:
        written.append(fail_at("write", number))

    with pytest.raises(KeyError, match=stage):
        run_overlapped(read(), work=lambda n: fail_at("work", n), write=write)
    assert closed == [True]
    assert overlap_threads() == []
    assert written == list(range(len(written)))
    assert len(written) <= 3
