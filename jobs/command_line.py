"""What the jobs' command lines share: the configuration's options, a clock, exit codes."""

import argparse
import sys
import time
from collections.abc import Callable

from pipelines.config import ConfigError
from pipelines.engine.chain import QuarantineError
from pipelines.engine.session import FAILURES
from pipelines.plan import PlanError
from pipelines.redact import redact_text
from pipelines.sources import SourceError

Say = Callable[[str], None]


def add_config_options(parser: argparse.ArgumentParser, *, folder: str) -> None:
    """`--config` and `--set`."""
    parser.add_argument("--config", required=True, help=f"a YAML file, see {folder}")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.field=value",
        help="change one value of the configuration; may be repeated",
    )


def run_job(
    work: Callable[[Say], int], *, failures: tuple[type[BaseException], ...] = FAILURES
) -> int:
    """Do the work and return its exit code: 1 failed, 2 wrong configuration or list, 3 quarantined.

    Args:
        work: Given a function that prints a line with the seconds since the start.
        failures: What ends the job with a message; anything else is a bug and keeps its trace.
    """
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:7.1f} s] {redact_text(line)}", flush=True)

    try:
        return work(say)
    except (ConfigError, PlanError, SourceError) as error:  # the list is the user's to mend
        print(redact_text(str(error)), file=sys.stderr)
        return 2
    except failures as error:
        print(f"failed: {redact_text(str(error))}", file=sys.stderr)
        return 3 if isinstance(error, QuarantineError) else 1
