"""Generate: a list of prompts becomes images, metadata and cached latents, each exactly once.

    python jobs/generate.py --config configs/generate/tiny.yaml \\
        --set prompts.path=/data/prompts.parquet --set output=/data/generated
    ray job submit --working-dir . -- python jobs/generate.py --config ... --grow

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
    from pipelines.workflows.generate import generate
    from pipelines.workflows.generate_config import GenerateJobConfig

    return run_steps_job(options, GenerateJobConfig, generate, say)


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    add_config_options(parser, folder="configs/generate/")
    add_asked(
        parser,
        rows="prompts",
        grow="make what is new in a list that has changed",
        retry="make again the shards that were given up",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
