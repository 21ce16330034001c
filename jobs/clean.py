"""Clean-up: remove the files of a run that no revision refers to any more.

    python jobs/clean.py /data/run                 # marks them; those marked 24 hours ago go
    python jobs/clean.py /data/run --grace 0       # at once, as after a takedown
    python jobs/clean.py /data/run --dry-run
    python jobs/clean.py /data/run --crops         # also the stored pictures of dropped rows

A re-cut, a retry, a growth or a takedown leaves the old revision's files for readers that have
them open; so does a killed worker. `--crops` removes every crop at once: a kept row's picture
is read from `images/` then, that of a dropped row is gone.

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import re
import sys
import time

from jobs.command_line import add_run, job_parser, open_store, run_job
from jobs.exit_codes import ExitCode
from sd_core.say import Say

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def main(arguments: list[str] | None = None) -> int:
    """Clean a run up; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    from pipelines.revisions.clean import clean_run
    from pipelines.revisions.crops import clean_crops
    from pipelines.run.folder import require_run
    from pipelines.run.lease import Lease

    store = open_store(options)
    require_run(store)
    verb = "would be removed" if options.dry_run else "removed"
    with Lease(store, say=say):
        if options.crops:
            crops, lost = clean_crops(store, dry=options.dry_run)
            size = sum(entry.num_bytes for entry in crops)
            print(f"crops: {len(crops):,} file(s), {size:,} bytes {verb}")
            print(
                f"a cut that keeps any of the {lost.pictures:,} dropped rows again would have to "
                f"fetch them again: {lost.told}"
            )
        done = clean_run(
            store, grace_s=options.grace, now_s=time.time(), say=say, dry=options.dry_run
        )
    print(f"{done.files:,} file(s), {done.num_bytes:,} bytes {verb}; {done.waiting:,} wait")
    return ExitCode.DONE


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: give seconds, or a number with m, h or d")
    return float(match[1]) * _UNITS_S[match[2]]


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    add_run(parser)
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=_seconds("24h"),
        help="how long ago a clean-up must have found a file unreferenced: 90m, 24h, 7d (24h)",
    )
    parser.add_argument(
        "--crops",
        action="store_true",
        help="also remove the stored pictures of dropped rows; says what a wider cut would cost",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would go; change nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
