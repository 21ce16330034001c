"""The exit codes of every job: one table, which `--help` prints and GUIDE.md repeats."""

import signal
from enum import IntEnum

from pipelines.engine.chain import QuarantineError
from pipelines.engine.stopping import Stopped, asked_to_stop
from sd_core.failures import Failure, InputError, is_environment


class ExitCode(IntEnum):
    """What a job's exit code means; the lower one counts where two would hold."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    DONE = 0, "done, or nothing to do (a finished run again, a `--grow` without news)"
    FAILED = 1, "failed; the message says why (of `verify.py`: there are faults)"
    WRONG_INPUT = 2, "usage or configuration: a wrong key, path, list, column, model or output"
    SHARDS_GIVEN_UP = 3, "shards were given up; their rows say so (before 4)"
    NOTHING_KEPT = (
        4,
        "done, and nothing of a list that is not empty was kept or made (never of a partial "
        "`--steps`)",
    )
    ENVIRONMENT = (
        75,
        "the environment (disk, store, credentials, another job at the run, no resources in "
        "time): the same command goes on",
    )
    INTERRUPTED = 130, "stopped by SIGINT: the same command goes on"
    TERMINATED = 143, "stopped by SIGTERM: the same command goes on"


def exit_code_of(error: BaseException) -> ExitCode | None:
    """The code of what ended a job; None for a bug, which keeps its trace (and exits with 1)."""
    stopped = stopped_by(error)
    if stopped is not None:
        return ExitCode.INTERRUPTED if stopped == signal.SIGINT else ExitCode.TERMINATED
    if isinstance(error, QuarantineError):
        return ExitCode.SHARDS_GIVEN_UP
    # Told bare, a file that may not be read or written is nobody's option.
    if is_environment(error) or isinstance(error, PermissionError):
        return ExitCode.ENVIRONMENT
    if isinstance(error, InputError):
        return ExitCode.WRONG_INPUT
    return ExitCode.FAILED if isinstance(error, Failure) else None


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
