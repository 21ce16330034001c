"""SIGINT and SIGTERM end a job with their codes, nothing is left behind, and the same command
goes on to the bytes of a run that was never stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from jobs import curate, generate, train
from tests.contracts import cases, generation_cases
from tests.contracts.cases import ServedList
from tests.contracts.training_cases import make_cache, weights_digests, write_config

pytestmark = pytest.mark.slow

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
MARK = "LATENT_FOUNDRY_TEST"


@dataclass(frozen=True)
class Stopped:
    """How a job ended that was stopped by a signal."""

    code: int
    out: str
    err: str
    took_s: float
    left: list[int]
    """Its processes that have not ended."""


def command(job: str, config: Path, *more: str) -> list[str]:
    return [sys.executable, str(cases.ROOT / f"jobs/{job}.py"), "--config", str(config), *more]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(cases.ROOT), "RAY_TMPDIR": "/tmp", **more}


def stop(arguments: list[str], number: signal.Signals, *, when: Callable[[], bool]) -> Stopped:
    """Start a job, send it a signal once `when` holds, and wait for its end."""
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        arguments,
        env=environment(**{MARK: mark}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and not when():
            time.sleep(0.01)
        started = time.monotonic()
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        took_s = time.monotonic() - started
    patience = time.monotonic() + 10  # Ray's daemons see that their driver is gone
    while (left := marked(mark)) and time.monotonic() < patience:
        time.sleep(0.1)
    return Stopped(process.returncode, out, err, took_s, left)


def marked(mark: str) -> list[int]:
    """Living processes that inherited the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
    return found


def check(stopped: Stopped, number: signal.Signals, output: Path) -> None:
    assert stopped.code == CODES[number], stopped
    assert stopped.err.endswith(f"stopped by {number.name}: the same command goes on\n"), stopped
    assert "Traceback" not in stopped.out + stopped.err, stopped
    assert not stopped.left
    assert not (output / "lease.json").exists()


def again(main: Callable[[list[str] | None], int], arguments: list[str]) -> None:
    """The same command, in this process."""
    assert main(arguments[2:]) == 0


@pytest.fixture
def slow_server(served_list: ServedList) -> Iterator[ServedList]:
    """The list's server, which takes its time for each answer."""
    served_list.server.delay_s = 0.5
    try:
        yield served_list
    finally:
        served_list.server.delay_s = 0.0


def curation(served: ServedList, output: Path, runner: str) -> Path:
    config = cases.configuration(
        served.path, output, download__threads=2, engine__runner=runner, engine__gpus=0
    )
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("runner", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_curation_that_is_stopped_while_it_fetches_goes_on(
    slow_server: ServedList, unharmed_run: Path, tmp_path: Path, number: signal.Signals, runner: str
) -> None:
    output, server = tmp_path / "run", slow_server.server
    arguments = command("curate", curation(slow_server, output, runner))
    before = sum(server.hits.values())
    # In the second shard of five, whose ten rows are more than its two threads have in hand.
    stopped = stop(arguments, number, when=lambda: sum(server.hits.values()) - before >= 13)
    check(stopped, number, output)
    assert stopped.took_s < 20
    assert not (output / "ledger").exists()
    server.delay_s = 0.0
    again(curate.main, [*arguments, "--set", "engine.runner=local"])
    assert cases.data_files(output) == cases.data_files(unharmed_run)


def test_a_generation_that_is_stopped_goes_on(tmp_path: Path) -> None:
    prompts = generation_cases.write_prompts(
        tmp_path / "prompts.parquet", generation_cases.prompts(12)
    )
    whole, output = tmp_path / "whole", tmp_path / "run"
    config = generation_cases.configuration(prompts, output, plan__images_per_shard=1)
    path = tmp_path / "generate.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    manifests = output / "_work/manifests/generate"
    arguments = command("generate", path)
    stopped = stop(arguments, signal.SIGTERM, when=lambda: any(manifests.glob("*/0*.json")))
    check(stopped, signal.SIGTERM, output)
    assert not (output / "ledger").exists()
    again(generate.main, arguments)
    again(generate.main, [*arguments, "--set", f"output={whole}"])
    assert generation_cases.digests(output) == generation_cases.digests(whole)


def test_a_training_that_is_stopped_goes_on(tmp_path: Path) -> None:
    cache, whole, output = make_cache(tmp_path), tmp_path / "whole", tmp_path / "run"
    config = write_config(tmp_path / "train.yaml", cache, output, loop__steps=100)
    arguments = command("train", config)
    current = output / "checkpoints/current.json"
    stopped = stop(arguments, signal.SIGINT, when=current.exists)
    check(stopped, signal.SIGINT, output)
    assert not (output / "result.json").exists()
    again(train.main, arguments)
    again(train.main, [*arguments, "--set", f"output={whole}"])
    assert weights_digests(output) == weights_digests(whole)
