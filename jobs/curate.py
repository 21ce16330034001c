"""Curate: a list of image URLs becomes a verified image set and a latent cache.

    python jobs/curate.py --config configs/curate/demo.yaml --set output=/data/run
    ray job submit --working-dir . -- python jobs/curate.py --config ... --set output=/data/run

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import sys

from jobs.command_line import add_asked, add_config_options, job_parser, run_job, run_steps_job
from sd_core.say import Say


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    from pipelines.workflows.curate import curate
    from pipelines.workflows.curate_config import CurateConfig

    return run_steps_job(options, CurateConfig, curate, say)


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    add_config_options(parser, folder="configs/curate/")
    add_asked(
        parser,
        rows="rows of the list",
        grow="add new files, and rows at the end of planned ones",
        retry="fetch again what failed for a reason that can pass (time-outs, 5xx, 429, ...), make "
        "again the shards that were given up",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
