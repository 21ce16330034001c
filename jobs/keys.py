"""Keys: what can be set in the configurations, with types, defaults and meaning.

    latent-foundry keys                # the sections
    latent-foundry keys download.      # the keys of one
    latent-foundry keys --of train optimizer.

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import sys
import textwrap
from collections.abc import Iterator

from jobs.command_line import job_parser, run_job
from jobs.exit_codes import ExitCode
from jobs.reference import Key, Model, job_models, keys_of, sections
from sd_core.errors import InputError

_WIDTH = 96


def main(arguments: list[str] | None = None) -> int:
    """Print the keys; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options))


def _run(options: argparse.Namespace) -> int:
    models = {job: model for job, model in job_models().items() if job.startswith(options.of)}
    lines = list(_lines(models, options.prefix))
    if not lines:
        places = sorted({place for place, _ in _places(models)} - {""})
        raise InputError(
            f"keys {options.prefix}: no such key or section; sections are: {', '.join(places)}"
        )
    print("\n".join(lines))
    return ExitCode.DONE


def _places(models: dict[str, Model]) -> Iterator[tuple[str, Model]]:
    for section, found in sections(models).items():
        for place in dict.fromkeys(place for places in found.values() for place in places):
            yield place, section


def _lines(models: dict[str, Model], prefix: str) -> Iterator[str]:
    if not prefix:
        yield from sorted({f"{place}." for place, _ in _places(models) if place})
        return
    for place, section in _places(models):
        for key in keys_of(section):
            name = f"{place}.{key.name}".removeprefix(".")
            if name == prefix or name.startswith(f"{prefix.rstrip('.')}."):
                yield from _told(name, key)


def _told(name: str, key: Key) -> Iterator[str]:
    unit = "" if key.unit in ("", "–") else f", in {key.unit}"
    yield f"{name}: {key.type}{unit}; default: {key.default}".replace("`", "")
    yield from textwrap.wrap(key.meaning, _WIDTH, initial_indent="    ", subsequent_indent="    ")


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    parser.add_argument("prefix", nargs="?", default="", help="a section (`download.`) or a key")
    parser.add_argument(
        "--of",
        choices=("curate", "generate", "train"),
        default="",
        metavar="JOB",
        help="only the configurations of curate, generate or train",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
