"""A signal raises once, whoever takes it for himself in between."""

import os
import signal
import sys
import threading

import pytest

from jobs.command_line import run_job
from pipelines.engine.stopping import Stopped, check_stopped, handle_signals, stoppable
from sd_core.say import Say

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def ask(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", CODES)
def test_a_job_ends_with_the_signals_code_and_one_line(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(each) for each in CODES]
    cleaned = []

    def work(say: Say) -> int:
        try:
            ask(number)
        finally:
            ask(number)  # the impatient
            cleaned.append(True)
        return 0

    assert run_job(work) == CODES[number]
    assert cleaned == [True]
    assert capsys.readouterr().err == f"stopped by {number.name}: the same command goes on\n"
    assert [signal.getsignal(each) for each in CODES] == before


def test_a_signal_that_a_library_makes_another_error_of_is_still_the_signal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(say: Say) -> int:
        try:
            ask(signal.SIGTERM)
        except SystemExit as error:
            raise RuntimeError("Query interrupted") from error
        return 0

    assert run_job(work) == 143
    assert "Query" not in capsys.readouterr().err


def test_a_signal_that_was_swallowed_is_raised_at_the_next_check() -> None:
    with stoppable():
        with pytest.raises(Stopped):
            ask(signal.SIGTERM)
        with pytest.raises(Stopped):
            check_stopped()


def test_signals_are_taken_back_from_a_library_that_took_them() -> None:
    with stoppable():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
        handle_signals()
        with pytest.raises(Stopped) as end:
            ask(signal.SIGTERM)
    assert end.value.code == 143


def test_what_was_asked_of_one_job_is_not_asked_of_the_next() -> None:
    with pytest.raises(Stopped), stoppable():
        ask(signal.SIGINT)
    with stoppable():
        check_stopped()
    assert run_job(lambda say: 0) == 0


def test_in_another_thread_nothing_changes() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(run_job(lambda say: 7)))
    thread.start()
    thread.join()
    assert found == [7]
