"""The jobs' exit codes tell the truth, and a bug keeps its trace."""

import pytest

from jobs.command_line import Say, run_job
from pipelines.config import ConfigError
from pipelines.engine.chain import EngineError, QuarantineError


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
