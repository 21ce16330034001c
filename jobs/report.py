"""Report: one page that shows a run, to be opened from disk.

    python jobs/report.py /data/run                       # writes /data/run/report/index.html
    python jobs/report.py s3://bucket/run --output run.html

Exit codes: 0 done, 1 failed, 2 not a run that can be shown.
"""

import argparse
import sys
from pathlib import Path

from jobs.command_line import Say, run_job
from pipelines.report import ReportError, make_report, write_report
from pipelines.storage import RunStore


def main(arguments: list[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    options = _parse(arguments)
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    store = RunStore(options.run)
    try:
        if options.output is None:
            say(f"report: {write_report(store)}")
        else:
            options.output.write_text(make_report(store), encoding="utf-8")
            say(f"report: {options.output}")
    except ReportError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="the run's folder: an absolute path or an fsspec URL")
    parser.add_argument("--output", type=Path, help="a local file instead of one in the run")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
