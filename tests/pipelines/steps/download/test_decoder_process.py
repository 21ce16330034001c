"""What kills a decoder costs one image; what kills it from outside costs none."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from pipelines.steps.download import decoder_process
from pipelines.steps.download.decode import decode_to_crop
from pipelines.steps.download.decoder_process import DecodeResult, DecoderProcess
from pipelines.steps.download.image_config import ImageConfig
from tests.pipelines.steps.download import drawn
from tests.pipelines.steps.download.child_memory import memory_mib

CONFIG = ImageConfig(size=64)
SMALL = drawn.saved(Image.fromarray(drawn.quarters(120, 80)), "JPEG")
REPOSITORY = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A file that takes the decoder a second or so: a progressive JPEG of 25 million pixels."""
    image = Image.fromarray(drawn.noise(500)).resize((5000, 5000))
    return drawn.saved(image, "JPEG", progressive=True, subsampling=0, quality=90)


def _soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _has_set_its_limits(pid: int) -> bool:
    try:
        limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(
        line.startswith("Max data size") and "unlimited" not in line for line in limits.splitlines()
    )


def _kill_every_child_until_done(decoder: DecoderProcess, future: "Future[DecodeResult]") -> None:
    while not future.done():
        pid = decoder.pid
        if _has_set_its_limits(pid):
            os.kill(pid, signal.SIGKILL)
            assert _soon(lambda pid=pid: decoder.pid != pid or future.done())
        time.sleep(0.005)


def test_results_come_back_to_whoever_asked() -> None:
    sides = list(range(20, 60))
    files = [drawn.saved(Image.new("RGB", (side, 40)), "PNG") for side in sides]
    with DecoderProcess(CONFIG) as decoder, ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda data: decoder.submit(data).result(), files))
    assert [result.original_width for result in results] == sides
    assert all(result.reason is None for result in results)


def test_the_process_gives_the_bytes_of_the_plain_function() -> None:
    with DecoderProcess(CONFIG) as decoder:
        result = decoder.submit(SMALL).result()
    crop = decode_to_crop(SMALL, CONFIG)
    assert result == DecodeResult(**vars(crop))
    assert (result.width, result.height, result.original_format) == (64, 64, "jpeg")


def test_a_refusal_carries_what_the_header_said() -> None:
    with DecoderProcess(ImageConfig(min_side_px=100)) as decoder:
        result = decoder.submit(SMALL).result()
    assert (result.reason, result.image) == ("image_too_small", None)
    assert (result.original_width, result.original_height) == (120, 80)


def test_one_kill_from_outside_loses_nothing(slow: bytes) -> None:
    with DecoderProcess(CONFIG) as decoder:
        futures = [decoder.submit(data) for data in (slow, SMALL, SMALL)]
        assert _soon(lambda: _has_set_its_limits(decoder.pid))
        first = decoder.pid
        os.kill(first, signal.SIGKILL)
        assert [future.result().reason for future in futures] == [None] * 3
        assert decoder.pid != first


def test_a_file_that_kills_every_decoder_costs_only_itself(slow: bytes) -> None:
    with DecoderProcess(CONFIG) as decoder:
        before, poison, after = (decoder.submit(data) for data in (SMALL, slow, SMALL))
        assert before.result().reason is None
        _kill_every_child_until_done(decoder, poison)
        assert poison.result().reason == "decoder_crashed"
        assert poison.result().original_width == 5000
        assert after.result().reason is None


def test_the_process_that_forks_has_one_thread_and_takes_its_forks_along(slow: bytes) -> None:
    with DecoderProcess(CONFIG) as decoder:
        assert decoder.submit(SMALL).result().reason is None
        supervisor, decoding = decoder.supervisor_pid, decoder.pid
        assert supervisor != decoding
        assert len(os.listdir(f"/proc/{supervisor}/task")) == 1  # or a fork might hang
        future = decoder.submit(slow)
        os.kill(supervisor, signal.SIGKILL)
        assert _soon(lambda: not _is_running(decoding))
        assert future.result().reason is None


def test_an_idle_decoder_that_is_killed_is_replaced() -> None:
    with DecoderProcess(CONFIG) as decoder:
        decoder.submit(SMALL).result()
        first = decoder.pid
        os.kill(first, signal.SIGKILL)
        assert _soon(lambda: decoder.pid != first)
        assert decoder.submit(SMALL).result().reason is None


def test_a_child_that_cannot_be_started_again_leaves_no_one_waiting(
    slow: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DecoderProcess(ImageConfig(size=64, decode_timeout_s=0.1)) as decoder:
        futures = [decoder.submit(data) for data in (slow, SMALL)]
        monkeypatch.setattr(sys, "executable", "/nowhere/python")  # no process to be had any more
        assert futures[0].result(30).reason == "decode_timed_out"
        with pytest.raises(RuntimeError, match="its reader failed: FileNotFoundError"):
            futures[1].result(30)
        assert not decoder.is_usable


def test_a_decode_beyond_its_cpu_time_is_timed_out_and_the_next_is_not(slow: bytes) -> None:
    with DecoderProcess(ImageConfig(size=64, decode_timeout_s=0.1)) as decoder:
        futures = [decoder.submit(data) for data in (slow, SMALL)]
        assert [future.result().reason for future in futures] == ["decode_timed_out", None]


def test_a_decoder_that_hangs_without_using_cpu_is_timed_out(
    slow: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "_WALL_CLOCK_FACTOR", 0.0)
    with DecoderProcess(ImageConfig(size=64, decode_timeout_s=60)) as decoder:
        assert decoder.submit(SMALL).result().reason is None
        os.kill(decoder.pid, signal.SIGSTOP)
        futures = [decoder.submit(data) for data in (SMALL, SMALL)]
        assert [future.result().reason for future in futures] == ["decode_timed_out", None]


def test_a_decode_beyond_its_memory_is_refused_and_the_next_is_not(slow: bytes) -> None:
    with DecoderProcess(ImageConfig(size=64, max_memory_bytes=64 << 20)) as decoder:
        decoder.submit(SMALL).result()
        before_mib = memory_mib(decoder.pid, "VmRSS")
        futures = [decoder.submit(data) for data in (slow, SMALL)]
        assert [future.result().reason for future in futures] == ["decode_out_of_memory", None]
        assert memory_mib(decoder.pid, "VmHWM") - before_mib < 100


def test_closing_finishes_what_was_submitted() -> None:
    decoder = DecoderProcess(CONFIG)
    futures = [decoder.submit(SMALL) for _ in range(20)]
    decoder.close()
    decoder.close()
    assert all(future.done() and future.result().reason is None for future in futures)
    assert not Path(f"/proc/{decoder.pid}").exists()
    with pytest.raises(RuntimeError, match="closed"):
        decoder.submit(SMALL)


def test_a_decoder_that_cannot_start_fails_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_process, "_CHILD_MODULE", "pipelines.no_such_module")
    with DecoderProcess(CONFIG) as decoder:
        with pytest.raises(RuntimeError, match="died while starting"):
            decoder.submit(SMALL).result()
        with pytest.raises(RuntimeError, match="died while starting"):
            decoder.submit(SMALL)


def test_the_child_ends_when_its_parent_is_killed() -> None:
    script = (
        "import sys, time; from pipelines.steps.download.decoder_process import *\n"
        "from pipelines.steps.download.image_config import ImageConfig\n"
        "decoder = DecoderProcess(ImageConfig()); decoder.submit(b'').result()\n"
        "print(decoder.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout as output:
        child = int(output.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
        parent.wait()
    assert _soon(lambda: not _is_running(child))


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_the_child_imports_only_what_decoding_needs() -> None:
    script = (
        "import sys, pipelines.steps.download.decoder_child\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    heavy = {"torch", "ray", "img2dataset", "albumentations", "pandas", "pyarrow", "scipy"}
    assert not heavy & set(found.stdout.split())


def test_nothing_that_decoders_print_is_seen(capfd: pytest.CaptureFixture[str]) -> None:
    garbled = bytearray(drawn.saved(Image.fromarray(drawn.noise(64)), "TIFF"))
    garbled[-40:] = bytes(40)
    with DecoderProcess(CONFIG) as decoder:
        for data in (bytes(garbled), SMALL[:200], SMALL[:-300]):
            decoder.submit(data).result()
    assert capfd.readouterr() == ("", "")
