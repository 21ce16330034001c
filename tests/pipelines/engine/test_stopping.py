"""A signal raises once, whoever takes it for himself in between."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

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


# A command, as `jobs/__init__.py` knows one, that says when it is at what the case is about.
COMMAND = """
import sys, time
sys.argv[0] = "jobs/curate.py"
from jobs.command_line import run_job
from pipelines.run.lease import Lease
from pipelines.run.store import RunStore

def at_work():
    print("at work", flush=True)
    time.sleep(30)

def swallow():
    try:
        at_work()
    except BaseException:
        time.sleep(30)

def work(say):
    with Lease(RunStore(sys.argv[1]), say=say):
        {case}
    return 0

{before}
code = run_job(work)
{after}
sys.exit(code)
"""
CASES = {
    "at work": ("at_work()", "", ""),
    "a library swallows it": ("swallow()", "", ""),
    "a library has taken the handler": (
        "import signal; signal.signal(15, lambda *_: None); at_work(); time.sleep(30)",
        "",
        "",
    ),
    "in a destructor": (
        "Dies = type('Dies', (), {'__del__': lambda self: at_work()}); Dies(); time.sleep(30)",
        "",
        "",
    ),
    "in an import": (
        "import types, os; open(sys.argv[1] + '/slow.py', 'w').write('import __main__; "
        "__main__.at_work()'); sys.path.append(sys.argv[1]); import slow",
        "",
        "",
    ),
    "before it begins": ("pass", "at_work()", ""),
    "after its end": ("pass", "", "at_work()"),
    "a thread of it goes on": (
        "pass",
        "",
        "import threading; threading.Thread(target=at_work).start()",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_command_ends_in_time_wherever_the_signal_finds_it(case: str, tmp_path: Path) -> None:
    names = ("case", "before", "after")
    script = COMMAND.format(**dict(zip(names, CASES[case], strict=True)))
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=-1, stderr=-1, text=True
    ) as command:
        assert command.stdout is not None
        line = command.stdout.readline()
        started = time.monotonic()
        command.terminate()
        _, err = command.communicate(timeout=20)
    assert line == "at work\n", err
    assert time.monotonic() - started < 5
    is_over = case in ("after its end", "a thread of it goes on")
    assert command.returncode == (0 if is_over else 143), err
    assert err == ("" if is_over else "stopped by SIGTERM: the same command goes on\n")
    assert not (tmp_path / "lease.json").exists()
