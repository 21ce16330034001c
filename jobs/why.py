"""Why: the life of one row of a run, from the list to the trainings that used it.

    python jobs/why.py /data/run https://example.org/a.jpg
    python jobs/why.py /data/run 9f86d081884c7d65 --json
    python jobs/why.py s3://bucket/run 12:345     (row 345 of shard 12, as the ledger counts)

Credentials of an object store come from its own environment variables (AWS_*, FSSPEC_*), or from
`--storage-options`.

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import json
import sys

from jobs.command_line import add_run, job_parser, open_named_run, run_job
from jobs.exit_codes import ExitCode


def main(arguments: list[str] | None = None) -> int:
    """Tell of a row; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options))


def _run(options: argparse.Namespace) -> int:
    from pipelines.report.why import life_lines, life_of

    life = life_of(open_named_run(options), options.row)
    if options.json:
        print(json.dumps(life, indent=1, ensure_ascii=False))
    else:
        print("\n".join(life_lines(life)))
    return ExitCode.DONE


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    add_run(parser)
    parser.add_argument("row", help="a URL as the list has it, a key, or shard:row")
    parser.add_argument("--json", action="store_true", help="one object instead of lines")
    return parser


if __name__ == "__main__":
    sys.exit(main())
