"""A secret in a path or URL that a user gives, right or wrong: no job prints it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jobs import clean, curate, generate, report, takedown, train, verify, why
from tests.contracts import job_cases as cases
from tests.contracts.cases import ServedList
from tests.contracts.training_cases import write_config

pytestmark = pytest.mark.slow

SECRET = "hunter2"
WRONG = f"nosuch://me:{SECRET}@host.example/run?X-Amz-Signature={SECRET}"
GONE = f"http://me:{SECRET}@127.0.0.1:9/list.parquet?token={SECRET}"

BUCKET = f"s3://KEY:{SECRET}/{SECRET}@host.example/run"
"""As no client reads it; a library takes what stands before the first slash for the bucket."""

Main = Callable[[list[str] | None], int]


def _config(folder: Path) -> list[Any]:
    return ["--config", write_config(folder / "train.yaml", folder / "latents", folder / "out")]


JOBS: dict[str, tuple[Main, Callable[[Path], list[Any]], int]] = {
    "curate to": (curate.main, lambda f: cases.curate(f / "list.parquet", WRONG), 2),
    "curate from": (curate.main, lambda f: cases.curate(f / "l", f / "o", source__path=WRONG), 2),
    "curate off": (curate.main, lambda f: cases.curate(f / "l", f / "o", source__path=GONE), 75),
    "generate to": (generate.main, lambda f: cases.generate(f / "p.parquet", WRONG), 2),
    "generate from": (
        generate.main,
        lambda f: cases.generate(f / "p", f / "o", prompts__path=WRONG),
        2,
    ),
    "train on": (train.main, lambda f: [*_config(f), *cases.sets(data__0__path=WRONG)], 2),
    "train to": (train.main, lambda f: [*_config(f), *cases.sets(output=WRONG)], 2),
    "curate with": (
        curate.main,
        lambda f: cases.curate(f / "list.parquet", f / "o", score__aesthetic_v1__weights=WRONG),
        2,
    ),
    "verify": (verify.main, lambda f: [WRONG], 2),
    "clean": (clean.main, lambda f: [WRONG], 2),
    "report": (report.main, lambda f: [WRONG], 2),
    "takedown": (takedown.main, lambda f: [WRONG, "--urls", f / "urls.txt"], 2),
    "takedown by": (takedown.main, lambda f: [f, "--urls", WRONG], 2),
    "curate to a bucket": (curate.main, lambda f: cases.curate(f / "list.parquet", BUCKET), 2),
    "curate from a bucket": (
        curate.main,
        lambda f: cases.curate(f / "l", f / "o", source__path=BUCKET),
        2,
    ),
    "generate to a bucket": (generate.main, lambda f: cases.generate(f / "p", BUCKET), 2),
    "train to a bucket": (train.main, lambda f: [*_config(f), *cases.sets(output=BUCKET)], 2),
    "a configuration in a bucket": (curate.main, lambda f: ["--config", BUCKET], 2),
    "verify a bucket": (verify.main, lambda f: [BUCKET], 2),
    "clean a bucket": (clean.main, lambda f: [BUCKET], 2),
    "report on a bucket": (report.main, lambda f: [BUCKET], 2),
    "why in a bucket": (why.main, lambda f: [BUCKET, "0123456789abcdef"], 2),
    "takedown in a bucket": (takedown.main, lambda f: [BUCKET, "--urls", f / "urls.txt"], 2),
    "takedown by a bucket's": (takedown.main, lambda f: [f, "--urls", BUCKET], 2),
    "an option too many": (verify.main, lambda f: [f, WRONG], 2),
}


@pytest.mark.parametrize("job", JOBS)
def test_a_wrong_place_is_named_without_its_secret(
    job: str, served_list: ServedList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, arguments, code = JOBS[job]
    cases.write_list(tmp_path / "list.parquet", served_list, cases.PICTURES)
    cases.write_prompts(tmp_path / "p.parquet", ["a red circle"])
    (tmp_path / "urls.txt").write_text("http://example.org/a.jpg\n")
    (tmp_path / "run.json").write_text('{"job": "curate", "steps": {}}')
    outcome = cases.call(main, *arguments(tmp_path), capsys=capsys)
    assert outcome.code == code, outcome
    assert SECRET not in outcome.out + outcome.err
    assert "host.example" in outcome.err or "127.0.0.1:9" in outcome.err, outcome
    assert "Traceback" not in outcome.err


@pytest.fixture
def remote_run(unharmed_run: Path) -> Iterator[str]:
    """A run on a store whose URL has user information."""
    run = f"memory://me:{SECRET}@host.example/run"
    memory = fsspec.filesystem("memory")
    memory.put(f"{unharmed_run}/", memory._strip_protocol(run), recursive=True)
    yield run
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_a_right_place_is_named_without_its_secret(
    remote_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = tmp_path / "domains.txt"
    urls.write_text("127.0.0.1\n")
    for main, more in (
        (verify.main, ["--deep"]),
        (report.main, []),
        (takedown.main, ["--domains", urls]),
        (clean.main, ["--grace", "0"]),
    ):
        outcome = cases.call(main, remote_run, *more, capsys=capsys)
        assert outcome.code == 0, outcome
        assert SECRET not in outcome.out + outcome.err


def test_a_training_tells_its_data_without_their_secret(
    remote_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "train.yaml", tmp_path / "training"
    write_config(path, Path("data"), output, loop__steps=2, loop__checkpoint_every=2)
    data = cases.sets(data__0__path=f"{remote_run}/latents")
    outcome = cases.call(train.main, "--config", path, *data, capsys=capsys)
    assert outcome.code == 0, outcome
    assert SECRET not in outcome.out + outcome.err
    assert "host.example/run/latents" in (output / "model/README.md").read_text()
    files = [file for file in output.rglob("*") if file.is_file()]
    assert any("tfevents" in file.name for file in files)
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]
