"""Status: how far a run is, who is at it, and what its command would do next.

    latent-foundry status /data/run
    latent-foundry status /data/run --watch
    latent-foundry status s3://bucket/run --json

Reads the run's records, what a job at work says of itself every 10 seconds (`status.json`) and, of
steps at work, up to 256 manifests; locks nothing.

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jobs.command_line import add_run, job_parser, open_store, run_job
from jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from pipelines.run.store import RunStore

_WATCH_EVERY_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Tell how far a run is; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options))


def _run(options: argparse.Namespace) -> int:
    from pipelines.run.folder import require_run
    from pipelines.run.record import read_run

    store = open_store(options)
    require_run(store)
    while True:
        is_training = read_run(store).get("job") == "train"
        tree, lines = _of_training(store) if is_training else _of_run(store)
        print(json.dumps(tree, indent=1) if options.json else "\n".join(lines), flush=True)
        if not (options.watch and tree["lease"] and tree["lease"]["is_alive"]):
            return ExitCode.DONE
        time.sleep(_WATCH_EVERY_S)
        print()


def _of_run(store: "RunStore") -> tuple[dict[str, Any], Iterable[str]]:
    from pipelines.report.status import status_lines, status_of

    status = status_of(store)
    return asdict(status), status_lines(status)


def _of_training(store: "RunStore") -> tuple[dict[str, Any], Iterable[str]]:
    from pipelines.training.status import training_lines, training_status

    status = training_status(store)
    return asdict(status), training_lines(status)


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    add_run(parser)
    parser.add_argument("--json", action="store_true", help="one object instead of lines")
    parser.add_argument(
        "--watch", action="store_true", help="again every 10 s, until no job is at it"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
