"""Train: latent caches become a latent diffusion model, or curated images an autoencoder.

    python jobs/train.py --config configs/train/tiny.yaml \\
        --set data.0.path=/data/run/latents --set output=/data/training
    python jobs/train.py --config configs/train/autoencoder_tiny.yaml \\
        --set data.0.path=/data/run --set output=/data/autoencoder

Exit codes: 0 done, 1 failed, 2 wrong configuration.
"""

import argparse
import sys
import time

from pipelines.config import ConfigError
from pipelines.engine.session import FAILURES
from pipelines.engine.training import TRAINING_FAILURES
from pipelines.redact import redact_text
from pipelines.training.job import TrainError, load_train_config, train


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    options = _parse(arguments)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:7.1f} s] {redact_text(line)}", flush=True)

    try:
        config = load_train_config(options.config, overrides=options.set)
        result = train(config, say=say)
    except ConfigError as error:
        print(redact_text(str(error)), file=sys.stderr)
        return 2
    except (TrainError, *TRAINING_FAILURES, *FAILURES) as error:
        print(f"failed: {redact_text(str(error))}", file=sys.stderr)
        return 1
    print(f"{result.steps:,} steps; the model: {redact_text(result.model)}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="a YAML file, see configs/train/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.field=value",
        help="change one value of the configuration; may be repeated",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
