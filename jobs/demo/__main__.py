"""Show the main job on pictures drawn here: what it keeps, what it drops, and why.

    python -m jobs.demo            (or: make demo)

Draws pictures with planted flaws, serves them and every kind of bad URL on loopback, submits
jobs/curate.py to a local Ray cluster, prints how many of each flaw were found, writes a contact
sheet, and trains the tiny model that ships with the project a little further by jobs/train.py on
the cache that came of it. With the model that came of that, jobs/generate.py makes two images of
each prompt of a Parquet list; the better ones go into a cache of their own, from which the training
takes one sample in four for its last steps.

Exit codes: `ExitCode` in sd_core/errors.py; short of the promised shares is 1.
"""

import argparse
import sys
from pathlib import Path

from jobs.command_line import job_parser, run_job
from jobs.demo.bad_urls import BAD_URLS

_OUTPUT = Path(__file__).resolve().parents[2] / "runs/demo"


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    options = _parse(arguments)
    return run_job(lambda say: _run(options))


def _run(options: argparse.Namespace) -> int:
    from jobs.demo.show import show

    return show(options)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = job_parser(__doc__, prog="python -m jobs.demo")
    parser.add_argument("--pictures", type=int, default=400, help="how many to draw")
    parser.add_argument(
        "--bad-urls", type=int, default=len(BAD_URLS), help="how many; every kind by default"
    )
    parser.add_argument("--training-steps", type=int, default=100, help="of 32 samples each")
    parser.add_argument("--prompts", type=int, default=24, help="two images are made of each")
    parser.add_argument("--mixed-steps", type=int, default=20, help="of training on both caches")
    parser.add_argument("--seed", type=int, help="first held-out seed")
    parser.add_argument(
        "--port", type=int, default=18471, help="of the loopback server; 0 takes any free one"
    )
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="cleared first")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
