"""Verify: every promise of a run that can be read off its files.

    python jobs/verify.py /data/run
    python jobs/verify.py s3://bucket/run --deep

Prints the faults, one a line, as `where: what was found, what was expected`. Credentials of an
object store come from its own environment variables (AWS_*, FSSPEC_*), or from `--storage-options`.

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import sys

from jobs.command_line import add_run, job_parser, open_store, run_job
from jobs.exit_codes import ExitCode
from sd_core.say import Say


def main(arguments: list[str] | None = None) -> int:
    """Verify a run; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    from pipelines.verify import Fault, verify_run

    num_faults = 0
    for finding in verify_run(open_store(options), deep=options.deep):
        if isinstance(finding, Fault):
            num_faults += 1
            print(finding, flush=True)
        else:
            print(f"note: {finding}", file=sys.stderr, flush=True)
    depth = "deep" if options.deep else "counts and sizes only; --deep reads the files"
    print(f"{options.run}: {num_faults} fault(s) ({depth})", file=sys.stderr)
    return ExitCode.FAILED if num_faults else ExitCode.DONE


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    add_run(parser)
    parser.add_argument("--deep", action="store_true", help="read every file whole")
    return parser


if __name__ == "__main__":
    sys.exit(main())
