"""The table of exit codes is one: in the code, in every `--help` and in GUIDE.md."""

import errno
import importlib
import re
import signal
from pathlib import Path
from urllib.error import HTTPError, URLError

import botocore.exceptions
import pytest

from jobs.exit_codes import ExitCode, exit_code_of
from pipelines.config import ConfigError
from pipelines.engine.chain import EngineError, QuarantineError, ResourcesError
from pipelines.engine.stopping import Stopped
from pipelines.plan import PlanError
from pipelines.run.lease import LeaseHeldError
from pipelines.run.manifest import OtherModelsError, ShardError
from pipelines.run.record import NotARunError, RunMismatchError
from pipelines.run.store import StorageError
from pipelines.sources import SourceError
from sd_core.cache.spec import CacheMismatchError, CacheSpecError
from sd_core.errors import is_environment
from sd_core.model.weights import WeightsError
from sd_core.training.checkpoint import CheckpointError, OtherTrainingError

ROOT = Path(__file__).resolve().parents[2]
JOBS = [
    *("__main__", "browse", "clean", "completion", "curate", "export", "generate", "init", "keys"),
    *("reference", "report", "status", "takedown", "train", "verify", "why"),
]
OTHERS = ["bench.__main__", "demo.__main__", "demo.photographs"]


def test_the_guide_has_the_codes_of_the_program_word_for_word() -> None:
    table = (ROOT / "GUIDE.md").read_text().split("| exit code | means |\n|---|---|\n")[1]
    found = re.findall(r"^\| (\d+) \| (.*) \|$", table.split("\n\n")[0], re.M)
    assert found == [(str(int(code)), code.meaning) for code in ExitCode]


def test_every_job_is_known_here() -> None:
    scripts = {path.stem for path in (ROOT / "jobs").glob("*.py") if "__main__" in path.read_text()}
    assert scripts == set(JOBS)


@pytest.mark.parametrize("job", JOBS + OTHERS)
def test_every_jobs_help_has_the_table(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"jobs.{job}").main(["--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    for code in ExitCode:
        assert f"{int(code)}  {code.meaning}" in told


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def answer(code: str, status: int) -> botocore.exceptions.ClientError:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(response, "PutObject")


def http(status: int) -> HTTPError:
    return HTTPError("http://hub", status, "", {}, None)  # type: ignore[arg-type]


CODES: list[tuple[BaseException, int | None]] = [
    (EngineError("x"), 1),
    (ShardError("x"), 1),
    (CheckpointError("damaged"), 1),
    (ConfigError("x"), 2),
    (PlanError("x"), 2),
    (SourceError("x"), 2),
    (StorageError("x"), 2),
    (RunMismatchError("x"), 2),
    (NotARunError("x"), 2),
    (WeightsError("x"), 2),
    (CacheMismatchError("x"), 2),
    (CacheSpecError("x"), 2),
    (OtherTrainingError("x"), 2),
    (OtherModelsError("x"), 2),
    (caused(SourceError("x"), PermissionError(errno.EACCES, "not yours")), 2),
    (caused(SourceError("x"), FileNotFoundError(errno.ENOENT, "nothing")), 2),
    (caused(SourceError("x"), answer("NoSuchBucket", 404)), 2),
    (caused(WeightsError("x"), http(404)), 2),
    (QuarantineError("x"), 3),
    (LeaseHeldError("x"), 75),
    (ResourcesError("x"), 75),
    (MemoryError(), 75),
    (OSError(errno.ENOSPC, "full"), 75),
    (OSError(errno.EDQUOT, "full"), 75),
    (OSError(errno.EROFS, "read-only"), 75),
    (OSError(errno.EIO, "broken"), 75),
    (PermissionError(errno.EACCES, "the run was taken away"), 75),
    (ConnectionResetError("x"), 75),
    (TimeoutError("x"), 75),
    (URLError("x"), 75),
    (botocore.exceptions.NoCredentialsError(), 75),
    (botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"), 75),
    (caused(PermissionError("x"), answer("InvalidAccessKeyId", 403)), 75),
    (caused(OSError("x"), answer("SlowDown", 503)), 75),
    (caused(SourceError("x"), answer("InternalError", 500)), 75),
    (caused(ShardError("x"), caused(OSError("y"), OSError(errno.ENOSPC, "full"))), 75),
    (caused(WeightsError("x"), http(503)), 75),
    (Stopped(signal.SIGINT), 130),
    (KeyboardInterrupt(), 130),
    (Stopped(signal.SIGTERM), 143),
    (KeyError("a bug"), None),
    (FileNotFoundError(errno.ENOENT, "a bug"), None),
    (SystemExit(5), None),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda found: repr(found)[:60])
def test_what_ends_a_job_has_one_code(error: BaseException, code: int | None) -> None:
    assert exit_code_of(error) == code


def test_a_circle_of_causes_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert not is_environment(one)
