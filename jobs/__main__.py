"""Every command by one name: latent-foundry COMMAND ...

    latent-foundry curate --config demo --set source.path=urls.parquet --set output=/data/run
    latent-foundry keys download.
    python -m jobs curate --help

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import sys
from importlib import import_module
from typing import Final

from jobs.command_line import job_parser

PROGRAM: Final = "latent-foundry"
COMMANDS: Final = {
    "init": "write a first configuration for the data and the machine that are there",
    "curate": "a list of image URLs, or pictures, becomes a verified image set and a latent cache",
    "train": "train a denoiser from latent caches, or an autoencoder from curated images",
    "generate": "make images of a list of prompts",
    "status": "tell how far a run is, who is at it, and what its command would do next",
    "verify": "check every promise of a run that can be read off its files",
    "report": "write the page about a run",
    "browse": "look at a run row by row, on a page of this machine",
    "why": "tell the life of one row, from the list to the trainings that used it",
    "export": "write the kept set for others to read",
    "takedown": "take rows out of a run, for good",
    "clean": "remove the files of a run that no revision uses",
    "keys": "print keys of the configurations, with types, defaults and meaning",
    "completion": "print a script by which bash or zsh completes all of this",
}
"""Each is the module of that name, with its `main`."""


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = job_parser(__doc__, prog=PROGRAM)
    parser.epilog = f"{_table()}\n\n{parser.epilog}"
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below")
    options = parser.parse_args(given[:1])
    sys.argv[0] = f"{PROGRAM} {options.command}"  # what the command's own help calls it
    return int(import_module(f"jobs.{options.command}").main(given[1:]))


def _table() -> str:
    width = max(map(len, COMMANDS))
    lines = (f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return "commands (each has a --help of its own):\n" + "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
