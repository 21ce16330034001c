"""The jobs' exit codes tell the truth, and a bug keeps its trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.command_line import job_parser, run_job
from pipelines.config import ConfigError
from pipelines.engine.chain import EngineError, QuarantineError
from sd_core.say import Say


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("wrong"), 2), (EngineError("broken"), 1), (QuarantineError("given up"), 3)],
)
def test_each_kind_of_failure_has_its_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(say: Say) -> int:
        raise error

    assert run_job(work) == code
    assert str(error) in capsys.readouterr().err


def test_the_works_own_code_is_returned_and_its_lines_have_no_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(say: Say) -> int:
        say("reading https://me:hunter2@example.org/list")
        return 3

    assert run_job(work) == 3
    said = capsys.readouterr().out
    assert "reading https://REDACTED@example.org/list" in said
    assert "hunter2" not in said


def test_a_bug_is_raised() -> None:
    def work(say: Say) -> int:
        raise KeyError("oops")

    with pytest.raises(KeyError):
        run_job(work)


def test_the_trace_of_a_bug_of_a_whole_process_has_no_secret() -> None:
    program = (
        "from jobs.command_line import run_job\n"
        "def work(say): raise KeyError('https://me:hunter2@example.org/list?sig=hunter2')\n"
        "run_job(work)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        check=False,
    )
    assert ended.returncode == 1
    assert "KeyError: 'https://REDACTED@example.org/list?sig=REDACTED" in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout


def test_a_wrong_option_is_quoted_without_its_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        job_parser("A job.").parse_args(["s3://me:hunter2@bucket/run"])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "s3://REDACTED@bucket/run" in told
    assert "hunter2" not in told
