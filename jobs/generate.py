"""Generate: a list of prompts becomes images, metadata and cached latents, each exactly once.

    python jobs/generate.py --config configs/generate/tiny.yaml \\
        --set prompts.path=/data/prompts.parquet --set output=/data/generated
    ray job submit --working-dir . -- python jobs/generate.py --config ... --grow

Exit codes: 0 done, 1 failed, 2 wrong configuration, 3 shards were quarantined (given up).
"""

import argparse
import sys
import time

from pipelines.config import ConfigError, load_config
from pipelines.engine.chain import QuarantineError
from pipelines.engine.session import FAILURES
from pipelines.generate import GENERATE_STEPS, GenerateJobConfig, generate
from pipelines.redact import redact_text


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    options = _parse(arguments)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:7.1f} s] {redact_text(line)}", flush=True)

    try:
        config = load_config(GenerateJobConfig, options.config, overrides=options.set)
        steps = tuple(options.steps.split(","))
        result = generate(config, steps=steps, grow=options.grow, say=say)
    except ConfigError as error:
        print(redact_text(str(error)), file=sys.stderr)
        return 2
    except FAILURES as error:
        print(f"failed: {redact_text(str(error))}", file=sys.stderr)
        return 3 if isinstance(error, QuarantineError) else 1
    print(result.funnel)
    print(f"run: {redact_text(config.output)}")
    return 3 if result.quarantined else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="a YAML file, see configs/generate/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.field=value",
        help="change one value of the configuration; may be repeated",
    )
    parser.add_argument(
        "--grow", action="store_true", help="make what is new in a list that has changed"
    )
    parser.add_argument(
        "--steps",
        default=",".join(GENERATE_STEPS),
        help="only these steps, by commas; naming select or encode allows a re-cut by new options",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
