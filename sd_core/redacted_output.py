"""What a process prints and logs, without the secrets of URLs, whoever wrote the line."""

import logging
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO, cast

from sd_core.redact import redact_text


@contextmanager
def redacted_output() -> Iterator[None]:
    """Within it, `sys.stdout`, `sys.stderr` and log records hold no URL's secret.

    The trace of an exception that leaves it has none either, where the interpreter prints it. What
    is written past Python's streams, by another process or by C code, is not seen.
    """
    _redact_log_records()
    before = sys.stdout, sys.stderr
    if isinstance(before[1], _RedactedStream):
        yield
        return
    streams = tuple(_RedactedStream(stream) for stream in before)
    sys.stdout, sys.stderr = cast("tuple[TextIO, TextIO]", streams)
    try:
        yield
    except Exception:
        sys.excepthook = _print_trace
        raise
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before


class _RedactedStream:
    """A text stream that hands a line on once it is whole: a URL may come in pieces."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = threading.local()  # of each thread; a lock would hang in a fork's child

    def write(self, text: str) -> int:
        """Take text; whole lines are written."""
        lines, end, rest = (self._held() + text).rpartition("\n")
        self._begun.text = rest
        if end:
            self._stream.write(redact_text(lines + end))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Take each text."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is held, too: the writer says that it is to be seen."""
        held, self._begun.text = self._held(), ""
        if held:
            self._stream.write(redact_text(held))
        self._stream.flush()

    def _held(self) -> str:
        return getattr(self._begun, "text", "")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _RedactedRecord(logging.LogRecord):
    """A log record; handlers may have taken hold of the process's streams before."""

    def getMessage(self) -> str:
        return redact_text(super().getMessage())

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "exc_text" and isinstance(value, str):  # set by the formatter
            value = redact_text(value)
        super().__setattr__(name, value)


_records_redacted = threading.Event()


def _redact_log_records() -> None:
    if _records_redacted.is_set():
        return
    _records_redacted.set()
    make = logging.getLogRecordFactory()

    def make_redacted(*args: Any, **options: Any) -> logging.LogRecord:
        record = make(*args, **options)
        if type(record) is logging.LogRecord:
            record.__class__ = _RedactedRecord
        return record

    logging.setLogRecordFactory(make_redacted)


def _print_trace(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(redact_text("".join(traceback.format_exception(kind, error, trace))))
