"""What verify reports, and how a value is shown in it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sd_core.redact import redact_text

_MAX_SHOWN = 80
_MAX_FAULTS = 20


@dataclass(frozen=True)
class Fault:
    """A promise that the files break."""

    where: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.where}: {self.found}, expected {self.expected}"


@dataclass(frozen=True)
class Secret(Fault):
    """A text that should have been redacted."""


@dataclass(frozen=True)
class ShownFault(Fault):
    """Of a file that readers find: `where` is as it says, and not below `_work/`."""


@dataclass(frozen=True)
class Note:
    """Something a reader should know that breaks no promise."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def shown(value: object) -> str:
    """A value on one short line, without URL credentials."""
    text = redact_text(repr(value))
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def limit(faults: Iterable[Fault], where: str) -> Iterator[Fault]:
    """The first faults of a file, then how many more there are: one bad tar is not 10,000 lines."""
    hidden = 0
    for number, fault in enumerate(faults):
        if number < _MAX_FAULTS:
            yield fault
        else:
            hidden += 1
    if hidden:
        yield Fault(where, f"{hidden} more faults", "none")
