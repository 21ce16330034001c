"""Every byte that a reader trusts is checked by one above it: damage is found, and named."""

import errno
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs import curate, report, takedown, train, verify
from pipelines.run.store import RunStore
from pipelines.sources import Source, SourceConfig
from pipelines.sources.config import SourceError
from tests.contracts import cases, job_cases, training_cases
from tests.contracts.damage_cases import as_of_before, damaged, flip_one, is_found, undetected

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def run(unharmed_run: Path, tmp_path: Path) -> Path:
    """A copy of the unharmed curation."""
    return Path(shutil.copytree(unharmed_run, tmp_path / "run"))


@pytest.mark.parametrize("output", ["unharmed_run", "unharmed_training"])
def test_a_flipped_bit_in_any_kind_of_file_is_found(
    output: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = shutil.copytree(request.getfixturevalue(output), tmp_path / "copy")
    assert undetected(folder, random.Random(output), flips=1) == []


@pytest.mark.parametrize("folder", ["facts/download", "facts/score", "ledger"])
def test_a_flipped_bit_in_the_name_of_a_column_is_found(run: Path, folder: str) -> None:
    """Such a table is as whole as any, and has all but one of the columns that are asked for."""
    path = next((run / "_work" / folder).glob("0*.parquet"))
    for name in (name.encode() for name in cases.pq.read_schema(path).names):
        content = path.read_bytes().replace(name, bytes([name[0] ^ 1]) + name[1:])
        with damaged(path, content):
            assert is_found(run), name


def _same(run: Path, served: cases.ServedList) -> tuple[Any, list[str]]:
    options = {"plan__rows_per_shard": 10, "download__timeout_s": 3.0}
    encode = json.dumps(json.loads((run / "run.json").read_text())["config"]["encode"])
    return curate.main, job_cases.curate(served.path, run, **options, encode=encode)


def _train(run: Path, served: cases.ServedList) -> tuple[Any, list[str]]:
    config = run.parent / "train.yaml"
    training_cases.write_config(config, run / "latents", run.parent / "out", loop__steps=1)
    return train.main, ["--config", str(config)]


def _takedown(run: Path, served: cases.ServedList) -> tuple[Any, list[str]]:
    keys = run.parent / "keys.txt"
    table = cases.pq.read_table(sorted((run / "ledger").glob("*.parquet"))[0])
    keys.write_text("\n".join(table.filter(table["kept"])["key"].to_pylist()))
    return takedown.main, [str(run), "--keys", str(keys)]


def _report(run: Path, served: cases.ServedList) -> tuple[Any, list[str]]:
    return report.main, [str(run), "--output", str(run.parent / "report.html")]


READERS = {"same": _same, "train": _train, "takedown": _takedown, "report": _report}


@pytest.mark.parametrize(
    ("reader", "pattern"),
    [
        ("same", "run.json"),
        ("same", "revision.json"),
        ("same", "_work/plan/plan.json"),
        ("same", "_work/plan/shards.parquet"),
        ("train", "_work/latents/spec.json"),
        ("train", "_work/latents/empty_caption.safetensors"),
        ("train", "_work/latents/index.parquet"),
        ("train", "_work/latents/shards.txt"),
        ("train", "_work/latents/0*.tar"),
        ("takedown", "_work/images/0*.tar"),
        ("takedown", "_work/latents/0*.tar"),
        ("takedown", "_work/facts/download/0*.parquet"),
        ("takedown", "_work/facts/score/0*.parquet"),
        ("takedown", "_work/manifests/download/*/0*.json"),
        ("takedown", "_work/manifests/encode/*/models.json"),
        ("takedown", "_work/manifests/encode/*/empty_caption.safetensors"),
        ("report", "_work/ledger/0*.parquet"),
        ("report", "_work/manifests/select/*/0*.json"),
    ],
)
def test_the_job_that_reads_a_damaged_file_says_which_in_one_line(
    run: Path, served_list: cases.ServedList, capsys: Capsys, reader: str, pattern: str
) -> None:
    main, arguments = READERS[reader](run, served_list)
    path = sorted(run.glob(pattern))[0]
    path.write_bytes(flip_one(path, random.Random(pattern)))
    ended = job_cases.call(main, *arguments, capsys=capsys)
    assert ended.code in (1, 2), ended
    [line] = ended.err.splitlines()
    assert str(path.relative_to(run)) in line


@pytest.mark.parametrize("path", ["run.json", "revision.json", "_work/latents/shards.txt"])
@pytest.mark.parametrize("content", [b"", b'{"a": [', None], ids=["empty", "torn", "gone"])
def test_a_torn_or_lost_record_is_a_fault(run: Path, path: str, content: bytes | None) -> None:
    with damaged(run / path, content):
        assert verify.main([str(run)]) == 1
    assert verify.main([str(run)]) == 0


def test_a_lost_record_of_a_training_is_a_fault(unharmed_training: Path, tmp_path: Path) -> None:
    training = shutil.copytree(unharmed_training, tmp_path / "training")
    for pattern in ("result.json", "checkpoints/step-*/files.json", "checkpoints/current.json"):
        with damaged(next(training.glob(pattern)), None):
            assert verify.main([str(training)]) == 1, pattern
    assert verify.main([str(training)]) == 0


@pytest.mark.parametrize("digests", [True, False], ids=["now", "made before"])
@pytest.mark.parametrize("change", ["doubled", "lost"])
def test_a_doubled_or_lost_line_of_a_list_is_found_before_the_first_batch(
    run: Path, served_list: cases.ServedList, capsys: Capsys, digests: bool, change: str
) -> None:
    if not digests:
        as_of_before(run)
    path = run / "_work/latents/shards.txt"
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, first, *others] if change == "doubled" else others))
    main, arguments = _train(run, served_list)
    ended = job_cases.call(main, *arguments, capsys=capsys)
    assert ended.code == 2, ended
    assert "shards.txt" in ended.err
    shutil.copy(path, run / "_work/images/shards.txt")
    with pytest.raises(SourceError, match=r"shards\.txt"):
        _ = Source(SourceConfig(path=str(run / "_work/images"))).files


def test_what_was_made_before_digests_verifies_resumes_and_trains_and_says_so_once(
    run: Path,
    unharmed_training: Path,
    served_list: cases.ServedList,
    tmp_path: Path,
    capsys: Capsys,
) -> None:
    training = shutil.copytree(unharmed_training, tmp_path / "training")
    for folder in (run, training):
        as_of_before(folder)
        ended = job_cases.call(verify.main, folder, "--deep", capsys=capsys)
        assert (ended.code, ended.out) == (0, ""), ended
        assert ended.err.count("made before") == 1
    main, arguments = _same(run, served_list)
    ended = job_cases.call(main, *arguments, capsys=capsys)
    assert (ended.code, "nothing to do" in ended.out) == (0, True), ended
    main, arguments = _train(run, served_list)
    ended = job_cases.call(main, *arguments, capsys=capsys)
    assert (ended.code, ended.out.count("made before")) == (0, 1), ended


def test_verify_that_cannot_read_exits_75(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    original = RunStore.absolute

    def failing(self: RunStore, path: str) -> str:
        if path.startswith("facts/score/0"):
            raise OSError(errno.EIO, "Input/output error", path)
        return original(self, path)

    monkeypatch.setattr(RunStore, "absolute", failing)
    ended = job_cases.call(verify.main, run, "--deep", capsys=capsys)
    assert ended.code == 75
    assert len(ended.err.splitlines()) == 1
