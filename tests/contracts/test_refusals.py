"""A command that is refused, for whatever reason, leaves every byte of the run as it was."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import clean, curate, export, generate, report, takedown, train, verify, why
from tests.contracts import generation_cases, job_cases
from tests.contracts.cases import ServedList
from tests.contracts.training_cases import make_cache, write_config

pytestmark = pytest.mark.slow

Main = Callable[[list[str] | None], int]
NO_COLUMN = ("select__rules", "[{sql: 'nothing > 1'}]", "nothing")
NO_MODEL = "/no/such/model"


@dataclass(frozen=True)
class Runs:
    """Finished runs, each beside a list that has grown since."""

    folder: Path

    def curate(self, run: Path, *flags: str, **options: object) -> list[str]:
        options = {"select__rules": "[]"} | options
        now = self.folder / ("grown" if "--grow" in flags else "planned")
        return job_cases.curate(now / "list.parquet", str(run), *flags, **options)

    def generate(self, run: Path, *flags: str, **options: object) -> list[str]:
        return job_cases.generate(self.folder / "prompts.parquet", str(run), *flags, **options)

    def train(self, run: Path, **options: object) -> list[str]:
        latents = next(self.folder.rglob("latents"))
        changes = {"loop__steps": 2, "loop__checkpoint_every": 2} | options
        return ["--config", str(write_config(self.folder / "train.yaml", latents, run, **changes))]


@pytest.fixture(scope="module")
def runs(served_list: ServedList, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    made, url = Runs(folder), served_list.server.url
    urls = [f"{url}/{number:03d}.png" for number in range(4)] + [f"{url}/bad/always_failing"]
    (folder / "cache").mkdir()
    make_cache(folder / "cache")
    for rows in (5, 6):  # the sixth once all is made
        listed = [*urls, f"{url}/005.png"][:rows]
        now = folder / ("planned" if rows == 5 else "grown")
        now.mkdir()
        pq.write_table(pa.table({"url": listed, "caption": listed}), now / "list.parquet")
        prompts = generation_cases.prompts(rows - 4)
        generation_cases.write_prompts(folder / "prompts.parquet", prompts)
        if rows == 5:
            assert curate.main(made.curate(folder / "curate")) == 0
            assert generate.main(made.generate(folder / "generate")) == 0
            assert train.main(made.train(folder / "train")) == 0
    return made


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "a folder"
        for path in folder.rglob("*")
    }


def check(
    main: Main, arguments: list[str], run: Path, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    outcome = job_cases.call(main, *arguments, capsys=capsys)
    assert outcome.code == 2, outcome
    assert named in outcome.err
    assert "Traceback" not in outcome.err
    assert contents(run) == before


OPTIONS = [
    ("image__size", 96, "image.size"),
    NO_COLUMN,
    ("plan__rows_per_shard", 11, "rows_per_shard"),
    ("rules__punsafe__max", 0.5, "rules"),
    ("block__urls", "/no/such/list.txt", "block.urls"),
    ("score__aesthetic_v1__weights", f"{NO_MODEL}.pth", "score.aesthetic_v1.weights"),
    ("score__clip__name", NO_MODEL, NO_MODEL),
    ("source__url_column", "link", "url_column"),
    ("source__path", "/no/such/list.parquet", "/no/such/list.parquet"),
    ("engine__torch_threads", 7, "torch_threads"),
]


@pytest.mark.parametrize(("name", "value", "named"), OPTIONS, ids=[o[0] for o in OPTIONS])
def test_a_refused_curation(
    name: str,
    value: object,
    named: str,
    runs: Runs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(runs.folder / "curate", tmp_path / "run"))
    for flags in (["--grow"], ["--retry"], []):
        check(curate.main, runs.curate(run, *flags, **{name: value}), run, named, capsys)


def test_steps_that_cannot_be_run_alone(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for main, arguments in ((curate.main, runs.curate), (generate.main, runs.generate)):
        name = "curate" if main is curate.main else "generate"
        run = Path(shutil.copytree(runs.folder / name, tmp_path / name))
        steps = ["--steps", "select"]
        check(main, arguments(run, "--grow", *steps), run, "name it", capsys)
        check(main, arguments(run, *steps, **{NO_COLUMN[0]: NO_COLUMN[1]}), run, "", capsys)
    run = tmp_path / "curate"
    check(curate.main, runs.curate(run, "--retry", "--steps", "select"), run, "name it", capsys)
    check(curate.main, runs.curate(run, "--grow", "--retry"), run, "--retry", capsys)


def test_what_was_refused_is_done_when_it_is_asked_for_rightly(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(runs.folder / "curate", tmp_path / "run"))
    check(curate.main, runs.curate(run, "--grow", image__size=96), run, "image.size", capsys)
    assert verify.main([str(run), "--deep"]) == 0
    outcome = job_cases.call(curate.main, *runs.curate(run, "--grow"), capsys=capsys)
    assert (outcome.code, "1 new rows" in outcome.out) == (0, True), outcome


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        NO_COLUMN,
        ("engine__torch_threads", 7, "torch_threads"),
        ("generate__model__model", NO_MODEL, NO_MODEL),
        ("prompts__prompt_column", "text", "text"),
        ("prompts__path", "/no/such/list.parquet", "/no/such/list.parquet"),
    ],
)
def test_a_refused_generation(
    name: str,
    value: object,
    named: str,
    runs: Runs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(runs.folder / "generate", tmp_path / "run"))
    check(generate.main, runs.generate(run, "--grow", **{name: value}), run, named, capsys)
    check(generate.main, runs.generate(run, **{name: value}), run, "", capsys)


def test_a_refused_training(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(runs.folder / "train", tmp_path / "run"))
    for options, named in (
        ({"loop__batch_size": 3}, "batch_size"),
        ({"data": [{"path": "/no/such/cache"}]}, "/no/such/cache"),
        ({"model": {"model": NO_MODEL}}, NO_MODEL),
        ({"looop": 1}, "looop"),
    ):
        check(train.main, runs.train(run, **options), run, named, capsys)


def test_a_refused_takedown_cleaning_or_page(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(runs.folder / "curate", tmp_path / "run"))
    other = Path(shutil.copytree(runs.folder / "train", tmp_path / "train"))
    bad, keys = tmp_path / "bad.txt", tmp_path / "keys.txt"
    to_set = ["--to", tmp_path / "set", "--format", "parquet"]
    bad.write_text("no key\n")
    keys.write_text("0123456789abcdef\n")
    for main, at, more, named in (
        (takedown.main, run, [], "give a list"),
        (takedown.main, run, ["--keys", bad], "16 hex digits"),
        (takedown.main, run, ["--keys", tmp_path / "no.txt"], "no.txt"),
        (takedown.main, other, ["--keys", keys], "train"),
        (clean.main, run, ["--grace", "soon"], "give seconds"),
        (report.main, run, ["--output", tmp_path / "no" / "page.html"], "its folder"),
        (report.main, other, [], "select is not complete"),
        (export.main, run, [*to_set, "--where", "nothing > 1"], "nothing"),
        (export.main, run, [*to_set, "--columns", "nothing"], "nothing"),
        (why.main, run, ["no-such-row"], "no-such-row"),
    ):
        check(main, [str(at), *map(str, more)], at, named, capsys)
    assert not (tmp_path / "set").exists()
