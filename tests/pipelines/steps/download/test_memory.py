"""A fetching process stays small, whatever the bodies are."""

import subprocess
import sys

from jobs.demo.bad_answers import good_jpeg, raw
from jobs.demo.server import LoopbackServer

LIMIT_MB = 512

_FETCH = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pipelines.steps.download.config import DownloadConfig
from pipelines.steps.download.fetch import Fetcher
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.decoder_process import DecoderProcess
from pipelines.steps.download.intake import IncomingRow, Intake
from pipelines.steps.download.limits import return_large_blocks_to_the_system

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak_mb()
return_large_blocks_to_the_system()
config = DownloadConfig(allow_networks=("127.0.0.0/8",), threads=32, max_per_host=32)
fetcher = Fetcher(config)
with DecoderProcess(ImageConfig(size=64)) as decoder, ThreadPoolExecutor(20) as pool:
    intake = Intake(fetcher, decoder, is_blocked=lambda sha256: False, max_bytes=config.max_bytes)
    rows = [IncomingRow(row=n, key=str(n), url=f"{sys.argv[1]}/{n % 2}") for n in range(20)]
    statuses = {taken.outcome.status for taken in pool.map(intake.fetch, rows)}
print(statuses, peak_mb() - before)
"""


def test_many_large_bodies_at_once_stay_under_the_limit():
    body = good_jpeg() + bytes(32_000_000)  # 20 of them would be 640 MB
    head = b"HTTP/1.1 200 OK\r\n"
    declared = raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    until_close = raw(head + b"\r\n" + body)
    with LoopbackServer(handlers={"/0": declared, "/1": until_close}) as server:
        done = subprocess.run(
            [sys.executable, "-c", _FETCH, server.url], capture_output=True, text=True, check=True
        )
    statuses, peak = done.stdout.rsplit(" ", 1)
    assert statuses == "{'success'}"
    assert int(peak) < LIMIT_MB
