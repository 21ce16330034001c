"""How every part says a line to whoever runs it."""

from collections.abc import Callable

Say = Callable[[str], None]
"""Takes a line for people; what it may not show is redacted below it."""


def duration(seconds: float) -> str:
    """As `hours:minutes:seconds`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def size(num_bytes: float) -> str:
    """In the largest unit of which it is at least one."""
    for unit, unit_bytes in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= unit_bytes:
            return f"{num_bytes / unit_bytes:,.1f} {unit}"
    return f"{num_bytes:,.0f} bytes"
