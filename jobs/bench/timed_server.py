"""The loopback server in a process of its own; it knows when it was first and last asked.

A path `/7/name.jpg` is the file `name.jpg` with a comment segment that holds the number 7, so that
a few photographs give any number of different files with the same pixels.
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.demo.exchange import Reply, Request
from jobs.demo.server import LoopbackServer

_TIMES_PATH = "/-/times"


@dataclass(frozen=True, kw_only=True)
class RequestTimes:
    """Of the files asked for since this was last read: seconds since the epoch, and how many."""

    first: float
    last: float
    count: int


class TimedServer(LoopbackServer):
    """Serves a folder and, at `/-/times`, when it was asked."""

    def __init__(self, folder: Path, *, delay_s: float = 0.0) -> None:
        super().__init__(folder, handlers={_TIMES_PATH: self._tell}, delay_s=delay_s)
        self._first = self._last = 0.0
        self._count = 0

    def file_response(self, path: str) -> bytes:
        """As the loopback server's; a number before the name makes the file unique."""
        self._last = time.time()
        self._first = self._first or self._last
        self._count += 1
        number, _, rest = path[1:].partition("/")
        if not (rest and number.isdigit()):
            return super().file_response(path)
        head, end, body = super().file_response(f"/{rest}").partition(b"\r\n\r\n")
        comment = b"\xff\xfe\x00\x0e" + f"{int(number):012d}".encode()
        body = body[:2] + comment + body[2:]
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
        return b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + end + body

    async def _tell(self, request: Request, reply: Reply) -> None:
        times = RequestTimes(first=self._first, last=self._last, count=self._count)
        self._first = self._last = 0.0
        self._count = 0
        body = json.dumps(vars(times)).encode()
        await reply.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """A running server."""

    url: str
    pid: int

    def take_times(self) -> RequestTimes:
        """When it was asked since the last call."""
        with urllib.request.urlopen(self.url + _TIMES_PATH, timeout=30) as answer:
            return RequestTimes(**json.load(answer))


@contextmanager
def serve(folder: Path, *, delay_s: float = 0.0) -> Iterator[ServerProcess]:
    """Run the server over a folder while the `with` block runs."""
    command = [sys.executable, "-m", "jobs.bench.timed_server", str(folder)]
    with subprocess.Popen(
        [*command, "--delay-s", str(delay_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = process.stdout.readline().decode().strip()
            if not url:
                raise RuntimeError(f"the server did not start; its error is above ({command})")
            yield ServerProcess(url=url, pid=process.pid)
        finally:
            process.stdin.close()  # its sign to stop


def main() -> None:
    """Print the URL, then serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay-s", type=float, default=0.0)
    options = parser.parse_args()
    with TimedServer(options.folder, delay_s=options.delay_s) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
