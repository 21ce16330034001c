"""What the jobs' command lines share: parser, configuration's options, clock, exit codes.

A job imports what it works with when it works, so that a `--help`, or an option that is wrong, is
told at once: torch, Ray and diffusers together take several seconds to load.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from jobs.exit_codes import ExitCode, exit_code_of, exit_code_table, stopped_by
from pipelines.engine.stopping import ends_with, stop_message, stoppable
from sd_core.errors import InputError
from sd_core.faults import describe_fault
from sd_core.home import expand_home
from sd_core.redact import redact_text
from sd_core.redacted_output import redacted_output
from sd_core.say import Say

if TYPE_CHECKING:
    from pipelines.config import Config
    from pipelines.run.reader import Run
    from pipelines.run.store import RunStore
    from pipelines.workflows.asked_job import Asked
    from pipelines.workflows.curate_config import CurateConfig
    from pipelines.workflows.generate_config import GenerateJobConfig
    from pipelines.workflows.job import JobResult

ConfigT = TypeVar("ConfigT", bound="Config")
JobT = TypeVar("JobT", "CurateConfig", "GenerateJobConfig")

PROJECT = Path(__file__).resolve().parents[1]
"""A checkout, or where the wheel was installed: `configs` lies beside `jobs` in both."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(redact_text(message))  # it quotes what was given


def job_parser(doc: str | None, *, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring's first line, the options and the exit codes.

    Args:
        prog: How a job that is run as a module is called.
    """
    return _Parser(
        prog=prog,
        description=(doc or "").split("\n")[0],
        epilog=exit_code_table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def shipped_configs(folder: str) -> dict[str, Path]:
    """The configurations in a folder of ours (`configs/curate/`), by the name of each."""
    return {path.stem: path for path in sorted((PROJECT / folder).glob("*.yaml"))}


def add_config_options(parser: argparse.ArgumentParser, *, folder: str) -> None:
    """`--config` and `--set`; a configuration of `folder` goes by its name alone as well."""
    shipped = shipped_configs(folder)
    parser.add_argument(
        "--config",
        required=True,
        type=lambda given: _found(expand_home(given), shipped),
        help=f"a YAML file, or one of {folder} by its name: {', '.join(shipped)}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.field=value",
        help="change one value of the configuration; may be repeated",
    )
    _add_storage_options(parser, of="every store like the output's, if the configuration has none")


def home_path(given: str) -> Path:
    """A local path on a command line, which may begin with `~`."""
    return Path(expand_home(given))


def _found(given: str, shipped: Mapping[str, Path]) -> str:
    return given if Path(given).exists() else str(shipped.get(given, given))


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run, and by what its store is opened."""
    parser.add_argument(
        "run", type=expand_home, help="the run's folder: an absolute path or an fsspec URL"
    )
    _add_storage_options(parser, of="the run's store, as the job had them")


def _add_storage_options(parser: argparse.ArgumentParser, *, of: str) -> None:
    parser.add_argument(
        "--storage-options",
        type=expand_home,
        metavar="FILE",
        help=f"JSON or YAML with the options of {of}; never shown or stored",
    )


def configured(options: argparse.Namespace, load: Callable[..., ConfigT]) -> ConfigT:
    """The job's configuration, as `load` reads it, with the options of stores."""
    from pipelines.run.store_options import load_storage_options, with_storage_options

    config = load(options.config, overrides=options.set)
    return with_storage_options(config, load_storage_options(options.storage_options))


def open_named_run(options: argparse.Namespace) -> "Run":
    """The run that is named, for reading."""
    from pipelines.run.reader import open_run
    from pipelines.run.store_options import load_storage_options

    storage_options = load_storage_options(options.storage_options)
    return open_run(options.run, storage_options=storage_options)


def open_store(options: argparse.Namespace) -> "RunStore":
    """The run that is named, by the options that are given with it."""
    from pipelines.run.store import RunStore
    from pipelines.run.store_options import load_storage_options

    return RunStore(options.run, load_storage_options(options.storage_options))


def add_asked(parser: argparse.ArgumentParser, *, rows: str, grow: str, retry: str) -> None:
    """What a command of curate or generate asks for beside the configuration.

    Args:
        rows: What a row of its list is.
        grow, retry: What the options of this name do, for the help.
    """
    parser.add_argument(
        "--steps",
        help="only these steps, by commas; naming select or encode allows a re-cut by new options",
    )
    add_limit(parser, of=f"{rows}; without it, the same command goes on with the others")
    parser.add_argument("--grow", action="store_true", help=grow)
    parser.add_argument("--retry", action="store_true", help=retry)
    add_plan(parser)


def add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plan",
        action="store_true",
        help="say what would be done, what is to be fetched and what it would take; write nothing",
    )


def add_limit(parser: argparse.ArgumentParser, *, of: str) -> None:
    """`--limit N`, a number above 0."""
    parser.add_argument("--limit", type=_count, metavar="N", help=f"the first N {of}")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return int(text)


def check_output_file(path: Path, option: str) -> None:
    """Raise `InputError` where a local file cannot be written, before there is one to write."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "its folder is not there"
        raise InputError(f"{option} {path}: {what}; give a file in a folder that is there")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{option} {path}: may not be written by this user; give another file")


def run_job(work: Callable[[Say], int]) -> int:
    """Do the work and return its exit code, or that of what ended it, which is told in a message.

    SIGINT and SIGTERM unwind the work, so that it gives back what it holds. A bug is raised. No
    secret of a URL is printed or logged on the way.

    Args:
        work: Given a function that prints a line with the seconds since the start.
    """
    from sd_core.store_waits import bound_store_waits

    started = time.monotonic()
    bound_store_waits()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:7.1f} s] {line}", flush=True)

    with redacted_output(), stoppable():
        try:
            code = int(work(say))
        except BaseException as error:
            found = exit_code_of(error)
            if found is None:
                raise
            code = int(found)
            print(_message(error, found), file=sys.stderr, flush=True)
        sys.stdout.flush()
        ends_with(code)
    return code


def run_steps_job(
    options: argparse.Namespace,
    config_type: "type[JobT]",
    run: "Callable[..., JobResult]",
    say: Say,
) -> int:
    """Do, or with `--plan` tell, what a command of curate or generate asks for.

    Args:
        run: `curate`, or `generate`.
    """
    from pipelines.config import load_config

    config = configured(options, partial(load_config, config_type))
    asked: Asked = {
        "steps": tuple(options.steps.split(",")) if options.steps is not None else (),
        "grow": options.grow,
        "retry": options.retry,
        "limit": options.limit,
    }
    if options.plan:
        from pipelines.workflows.preview import preview_job

        print("\n".join(preview_job(config, **asked, say=say)))
        return ExitCode.DONE
    result = run(config, **asked, say=say)
    print(result.funnel)
    print(f"run: {config.output}")
    return _result_code(result)


def _result_code(result: "JobResult") -> int:
    """The exit code of a job of committed steps that came to its end; says why it is not 0."""
    if result.quarantined:
        from pipelines.workflows.job import MAKE_AGAIN

        told = f"{result.quarantined:,} shard(s) were given up, see above"
        print(f"{told}: mend the cause, then {MAKE_AGAIN}", file=sys.stderr)
        return ExitCode.SHARDS_GIVEN_UP
    if result.nothing_kept is not None:
        print(result.nothing_kept, file=sys.stderr)
        return ExitCode.NOTHING_KEPT
    return ExitCode.DONE


def _message(error: BaseException, code: ExitCode) -> str:
    if (stopped := stopped_by(error)) is not None:
        return stop_message(stopped)
    if code == ExitCode.ENVIRONMENT:
        return f"the environment: {describe_fault(error)}; the same command goes on"
    if code == ExitCode.WRONG_INPUT:
        return str(error)
    return f"failed: {error}"
