"""Takedown: remove rows from a curated run, and keep them out.

    python jobs/takedown.py /data/run --urls /lists/urls.txt
    python jobs/takedown.py /data/run --keys keys.txt --domains domains.txt --sha256 hashes.txt

Rows whose originals have the same bytes go with them. Lists hold one entry a line (or are Parquet
with one column). Images, latents, facts, ledger and everything else of the rows leave the current
revision at once; jobs/clean.py then removes the files of earlier ones. What was taken down is kept
as digests, so that neither a retry nor a grown list brings it back. A takedown that was interrupted
is finished by running it, or the job, again.

The report is removed and the card made anew.

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import sys

from jobs.command_line import job_parser, run_job
from jobs.exit_codes import ExitCode
from sd_core.say import Say

_KINDS = ("keys", "urls", "domains", "sha256")


def main(arguments: list[str] | None = None) -> int:
    """Take rows down; returns the exit code."""
    options = _parse(arguments)
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    from pipelines.report.card import write_card
    from pipelines.revisions.takedown import take_down
    from pipelines.revisions.takedown_lists import read_takedown_lists
    from pipelines.run.folder import require_run
    from pipelines.run.lease import Lease
    from pipelines.run.store import RunStore

    store = RunStore(options.run)
    require_run(store)
    stones = read_takedown_lists({kind: getattr(options, kind) for kind in _KINDS})
    with Lease(store, say=say):
        done = take_down(store, stones, say=say)
        write_card(store)
    rows, shards = (done.num_rows, done.num_shards) if done is not None else (0, 0)
    print(f"{rows:,} row(s) in {shards:,} shard(s) are taken down: {options.run}")
    if rows:
        print(f"now remove the old files: python jobs/clean.py {options.run} --grace 0")
    return ExitCode.DONE


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = job_parser(__doc__)
    parser.add_argument("run", help="the run's folder: an absolute path or an fsspec URL")
    for kind in _KINDS:
        parser.add_argument(f"--{kind}", metavar="LIST", help=f"a list of {kind}")
    options = parser.parse_args(arguments)
    if all(getattr(options, kind) is None for kind in _KINDS):
        parser.error("give a list: " + ", ".join(f"--{kind}" for kind in _KINDS))
    return options


if __name__ == "__main__":
    sys.exit(main())
