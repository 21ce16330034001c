"""Whoever prints, whatever the way: no secret of a URL comes out, and nothing else is lost."""

import io
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable

import pytest

from sd_core.redacted_output import redacted_output

URL = "https://me:hunter2@host.example/a.jpg?X-Amz-Signature=hunter2&w=3"
SHOWN = "https://REDACTED@host.example/a.jpg?X-Amz-Signature=REDACTED&w=3"


def print_in_pieces() -> None:
    for piece in ("reading ", "https://me:hun", "ter2@host.example/a.jpg?X-Amz-Sig"):
        print(piece, end="")
    print("nature=hunter2&w=3")


def raise_in_a_thread() -> None:
    thread = threading.Thread(target=lambda: int(f"no number: {URL}"))
    thread.start()
    thread.join()


def log_an_exception() -> None:
    try:
        raise OSError(f"cannot open {URL}")
    except OSError:
        logging.getLogger("some.library").exception("failed at %s", URL)


WAYS: dict[str, Callable[[], object]] = {
    "print": lambda: print(f"run: {URL}"),
    "print to stderr": lambda: print(f"run: {URL}", file=sys.stderr),
    "without an end of line": lambda: print(f"run: {URL}", end="", flush=True),
    "a progress line": lambda: sys.stderr.write(f"\r3/5 {URL}") and sys.stderr.flush(),
    "lines": lambda: sys.stdout.writelines(["one\n", f"two {URL}\n"]),
    "pieces": print_in_pieces,
    "a warning": lambda: warnings.warn(f"slow: {URL}", stacklevel=1),
    "the last resort's log": lambda: logging.getLogger("some.library").warning("slow: %s", URL),
    "a log with a trace": log_an_exception,
    "another thread's trace": raise_in_a_thread,
}


def go_past_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It catches warnings, traces of threads and logs before anyone prints them."""
    monkeypatch.setattr(logging.getLogger("some.library"), "propagate", False)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(warnings, "showwarning", _show_warning)


def _show_warning(message: object, category: type[Warning], *rest: object, **more: object) -> None:
    sys.stderr.write(f"{category.__name__}: {message}\n")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("always::UserWarning")
def test_no_way_of_printing_shows_a_secret(
    way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go_past_pytest(monkeypatch)
    with redacted_output():
        WAYS[way]()
    told = "".join(capsys.readouterr())
    assert "hunter2" not in told
    assert SHOWN in told


def test_a_handler_that_took_the_stream_before_shows_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger, stream = logging.getLogger("took.stderr.before"), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        with redacted_output():
            try:
                raise OSError(f"cannot open {URL}")
            except OSError:
                logger.exception("failed at %s with %d", URL, 3)
    finally:
        logger.removeHandler(handler)
    told = stream.getvalue()
    assert f"failed at {SHOWN} with 3" in told
    assert f"OSError: cannot open {SHOWN}" in told
    assert "hunter2" not in told


def test_the_trace_of_a_bug_shows_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(KeyError) as caught, redacted_output():
        raise KeyError(URL)
    sys.excepthook(caught.type, caught.value, caught.tb)  # as the interpreter does at its end
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last):")
    assert f"KeyError: '{SHOWN}'" in told
    assert "hunter2" not in told


def test_text_comes_out_whole_in_order_and_the_streams_are_given_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sys.stdout, sys.stderr
    with redacted_output():
        inner = sys.stdout
        with redacted_output():
            assert sys.stdout is inner
            print("one", 2, sep=", ")
            sys.stdout.write("three\nfo")
            sys.stdout.write("ur\nfive")
        assert sys.stdout.encoding == before[0].encoding
        assert sys.stdout.isatty() is before[0].isatty()
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "one, 2\nthree\nfour\nfive"


def test_lines_of_threads_do_not_mix(capsys: pytest.CaptureFixture[str]) -> None:
    def write(word: str) -> None:
        for _ in range(50):
            print(word, end="")
            time.sleep(0.0001)
            print(word)

    with redacted_output():
        threads = [threading.Thread(target=write, args=(word,)) for word in ("aa", "bb", "cc")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = capsys.readouterr().out.split("\n")[:-1]
    assert sorted(lines) == sorted(["aaaa", "bbbb", "cccc"] * 50)
