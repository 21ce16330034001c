"""Browse: a page on this machine to look at a run, row by row.

    python jobs/browse.py /data/run
    python jobs/browse.py s3://bucket/run --port 8090 --no-open

A server of its own shows the page to whoever has the address that is printed, on this machine
alone; from another one, lead a port here: `ssh -L 8090:127.0.0.1:8090 HOST`. Nothing is written to
the run. It shows the revision that is current when it starts. Ctrl-C ends it.

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import os
import sys
import threading

from jobs.command_line import add_run, job_parser, open_named_run, run_job
from jobs.exit_codes import ExitCode
from sd_core.say import Say


def main(arguments: list[str] | None = None) -> int:
    """Show the page until a signal comes; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    from pipelines.browse.server import BrowseServer, check_host

    check_host(options.host, allow_others=options.allow_others)
    run = open_named_run(options)
    with BrowseServer(run, host=options.host, port=options.port, say=say) as server:
        say(f"browse: {run.path}, revision {run.revision.number}: {server.url}")
        say("Ctrl-C ends it")
        if options.open and _has_screen():
            _open(server.ticket_url)
        threading.Event().wait()
    return ExitCode.DONE


def _has_screen() -> bool:
    """Whether a browser could show itself; one in the terminal would be in the way."""
    return sys.platform == "darwin" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def _open(url: str) -> None:
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0 to 65535")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    add_run(parser)
    parser.add_argument(
        "--port", type=_port, default=0, metavar="N", help="to listen at; by default any free one"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="to listen at; by default 127.0.0.1"
    )
    parser.add_argument(
        "--allow-others",
        action="store_true",
        help="let --host be an address that other machines reach; whoever has the page's address "
        "sees the run, and nothing on the way is encrypted",
    )
    parser.add_argument(
        "--no-open",
        dest="open",
        action="store_false",
        help="only print the page's address, and open no browser",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
