"""Train: latent caches become a latent diffusion model, or curated images an autoencoder.

    python jobs/train.py --config configs/train/tiny.yaml \\
        --set data.0.path=/data/run/latents --set output=/data/training
    python jobs/train.py --config configs/train/autoencoder_tiny.yaml \\
        --set data.0.path=/data/run --set output=/data/autoencoder

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import sys

from jobs.command_line import (
    add_config_options,
    add_limit,
    add_plan,
    configured,
    job_parser,
    run_job,
)
from jobs.exit_codes import ExitCode
from sd_core.say import Say


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    from pipelines.training.job import load_train_config, train

    config = configured(options, load_train_config)
    if options.plan:
        from pipelines.training.preview import preview_training

        print("\n".join(preview_training(config, limit=options.limit, say=say)))
        return ExitCode.DONE
    result = train(config, say=say, limit=options.limit)
    print(f"{result.steps:,} steps; the model: {result.model}")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    add_config_options(parser, folder="configs/train/")
    add_limit(parser, of="steps; without it, the same command goes on to the same weights")
    add_plan(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
