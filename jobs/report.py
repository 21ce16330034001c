"""Report: one page that shows a run, to be opened from disk.

    python jobs/report.py /data/run                       # writes /data/run/report/index.html
    python jobs/report.py s3://bucket/run --output run.html

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import sys

from jobs.command_line import add_run, check_output_file, home_path, job_parser, open_store, run_job
from jobs.exit_codes import ExitCode
from sd_core.say import Say


def main(arguments: list[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    from pipelines.report.page import make_report, write_report
    from pipelines.run.folder import require_run

    store = open_store(options)
    require_run(store)
    if options.output is None:
        say(f"report: {write_report(store)}")
        return ExitCode.DONE
    check_output_file(options.output, "--output")
    options.output.write_text(make_report(store), encoding="utf-8")
    say(f"report: {options.output}")
    return ExitCode.DONE


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    add_run(parser)
    parser.add_argument(
        "--output",
        type=home_path,
        help="a local file instead of one in the run",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
