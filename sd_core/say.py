"""How every part says a line to whoever runs it."""

from collections.abc import Callable

Say = Callable[[str], None]
"""Takes a line for people; what it may not show is redacted below it."""
