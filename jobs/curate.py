"""Curate: a list of image URLs becomes a verified image set and a latent cache.

    python jobs/curate.py --config configs/curate/demo.yaml --set output=/data/run
    ray job submit --working-dir . -- python jobs/curate.py --config ... --set output=/data/run

Exit codes: 0 done, 1 failed, 2 wrong configuration, 3 shards were quarantined (given up).
"""

import argparse
import sys
import time

from pipelines.config import ConfigError, load_config
from pipelines.curate import STEPS, CurateConfig, curate
from pipelines.engine.chain import QuarantineError
from pipelines.engine.session import FAILURES
from pipelines.redact import redact_text


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    options = _parse(arguments)
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:7.1f} s] {redact_text(line)}", flush=True)

    try:
        config = load_config(CurateConfig, options.config, overrides=options.set)
        result = curate(config, steps=tuple(options.steps.split(",")), say=say)
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
    parser.add_argument("--config", required=True, help="a YAML file, see configs/curate/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.field=value",
        help="change one value of the configuration; may be repeated",
    )
    parser.add_argument(
        "--steps",
        default=",".join(STEPS),
        help="only these steps, by commas; naming select or encode allows a re-cut by new options",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
