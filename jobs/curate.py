"""Curate: a list of image URLs becomes a verified image set and a latent cache.

    python jobs/curate.py --config configs/curate/demo.yaml --set output=/data/run
    ray job submit --working-dir . -- python jobs/curate.py --config ... --set output=/data/run

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import sys
from functools import partial

from jobs.command_line import (
    add_config_options,
    add_limit,
    add_plan,
    asked_of,
    configured,
    job_parser,
    result_code,
    run_job,
)
from jobs.exit_codes import ExitCode
from sd_core.say import Say


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    from pipelines.config import load_config
    from pipelines.workflows.curate import curate
    from pipelines.workflows.curate_config import CurateConfig

    config = configured(options, partial(load_config, CurateConfig))
    asked = asked_of(options)
    if options.plan:
        from pipelines.workflows.preview import preview_job

        print("\n".join(preview_job(config, **asked, say=say)))
        return ExitCode.DONE
    result = curate(config, **asked, say=say)
    print(result.funnel)
    print(f"run: {config.output}")
    return result_code(result)


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    add_config_options(parser, folder="configs/curate/")
    parser.add_argument(
        "--steps",
        help="only these steps, by commas; naming select or encode allows a re-cut by new options",
    )
    add_limit(parser, of="rows of the list; without it, the same command goes on with the others")
    add_plan(parser)
    parser.add_argument(
        "--grow",
        action="store_true",
        help="add new files, and rows at the end of planned ones",
    )
    parser.add_argument(
        "--retry",
        action="store_true",
        help="fetch again what failed for a reason that can pass (time-outs, 5xx, 429, ...), make "
        "again the shards that were given up",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
