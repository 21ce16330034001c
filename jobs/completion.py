"""Completion: print a script by which a shell completes this command, its options and files.

    latent-foundry completion bash > ~/.local/share/bash-completion/completions/latent-foundry
    latent-foundry completion zsh > ~/.zfunc/_latent-foundry    # a folder of $fpath

The script is static: no completion starts Python. Print it anew after an update.

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import sys
from importlib import import_module

from jobs.__main__ import COMMANDS, PROGRAM
from jobs.command_line import job_parser, run_job, shipped_configs
from jobs.exit_codes import ExitCode

_FOLDERS = ("run", "--taken-down-in")
_FILES = ("data", "--config", "--output", "--to", "--trainings", "--storage-options")
_LIST = "LIST"  # the metavar of options that take a file of entries


def main(arguments: list[str] | None = None) -> int:
    """Print the script; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options))


def _run(options: argparse.Namespace) -> int:
    import shtab

    parser, shipped = argparse.ArgumentParser(prog=PROGRAM), {}
    commands = parser.add_subparsers()
    for name, what in COMMANDS.items():
        job: argparse.ArgumentParser = import_module(f"jobs.{name}").make_parser()
        for action in job._actions:
            given = action.option_strings[-1] if action.option_strings else action.dest
            if names := shipped_configs(f"configs/{name}/") if given == "--config" else {}:
                shipped[f"_latent_foundry_{name}_files"] = " ".join(names)
                told: object = dict.fromkeys(("bash", "zsh"), f"_latent_foundry_{name}_files")
            elif given in _FOLDERS:
                told = shtab.DIRECTORY
            elif given in _FILES or action.metavar == _LIST:
                told = shtab.FILE
            else:
                continue
            action.complete = told  # type: ignore[attr-defined]
        commands.add_parser(name, help=what, parents=[job], add_help=False)
    preamble = {
        "bash": "\n".join(
            f'{name}() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}'
            for name, names in shipped.items()
        ),
        "zsh": "\n".join(
            f"{name}() {{ _alternative 'shipped:shipped:({names})' 'files:file:_files'; }}"
            for name, names in shipped.items()
        ),
    }
    print(shtab.complete(parser, shell=options.shell, preamble=preamble[options.shell]))
    return ExitCode.DONE


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    parser.add_argument("shell", choices=("bash", "zsh"), help="for which")
    return parser


if __name__ == "__main__":
    sys.exit(main())
