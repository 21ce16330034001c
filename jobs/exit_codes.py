"""The exit codes of every job: what ended it has one, and `--help` prints their table."""

import signal

from pipelines.engine.stopping import Stopped, asked_to_stop
from sd_core.errors import ExitCode, FoundryError, is_environment

__all__ = ["ExitCode", "exit_code_of", "exit_code_table", "stopped_by"]


def exit_code_of(error: BaseException) -> ExitCode | None:
    """The code of what ended a job; None for a bug, which keeps its trace (and exits with 1)."""
    stopped = stopped_by(error)
    if stopped is not None:
        return ExitCode.INTERRUPTED if stopped == signal.SIGINT else ExitCode.TERMINATED
    # Told bare, a file that may not be read or written is nobody's option.
    if is_environment(error) or isinstance(error, PermissionError):
        return ExitCode.ENVIRONMENT
    return error.exit_code if isinstance(error, FoundryError) else None


def stopped_by(error: BaseException) -> signal.Signals | None:
    """The signal that ended a job, also where a library made another error of it."""
    if isinstance(error, Stopped):
        return error.signal
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    return asked_to_stop()


def exit_code_table() -> str:
    """The table as lines of text, for `--help`."""
    return "exit codes:\n" + "\n".join(f"  {code:>3}  {code.meaning}" for code in ExitCode)
