"""The worked step of CONTRIBUTING.md, added from outside and run by the real commands."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from jobs import clean, curate, takedown, verify
from pipelines.steps.kinds import STEP_KINDS
from tests.contracts import job_cases, source_cases
from tests.contributing.example_step import THUMBNAILS
from tests.run_cases import committed_files

SHADES = (0, 60, 120, 180, 240)


def options(folder: Path, *more: str, **settings: object) -> list[str]:
    """A curation of five pictures without models, with thumbnails; the last is not kept."""
    tar = folder / "pictures.tar"
    if not tar.exists():
        members = [(f"{shade:03d}.jpg", source_cases.picture(shade)) for shade in SHADES]
        texts = [(f"{shade:03d}.txt", f"shade {shade}".encode()) for shade in SHADES]
        source_cases.write_tar(tar, sorted(members + texts))
    told = {
        "score": "null",
        "select__thresholds": "{}",
        "select__rules": "[{column: caption, one_of: [shade 0, shade 60, shade 120, shade 180]}]",
        "plan__rows_per_shard": 2,
        "image__min_side_px": 8,
        "steps__thumbnails": "{side_px: 16}",
        **settings,
    }
    return job_cases.curate(tar, folder / "run", *more, **told)


def thumbnails(run: Path) -> dict[str, tuple[int, int]]:
    """Key to the size of each thumbnail of the current revision."""
    found = {}
    for path in committed_files(run, "thumbnails"):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                with Image.open(io.BytesIO(content.read())) as image:
                    found[member.name.removesuffix(".jpg")] = image.size
    return found


def kept(run: Path) -> set[str]:
    return {row["key"] for row in source_cases.ledger(run) if row["kept"]}


def test_a_step_is_one_package_and_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = job_cases.call(curate.main, *options(tmp_path), capsys=capsys)
    assert refused.code == 2
    assert "steps: thumbnails: no further step; allowed: publish" in refused.err.replace("\n", " ")

    monkeypatch.setitem(STEP_KINDS, "thumbnails", THUMBNAILS)
    run = tmp_path / "run"
    made = job_cases.call(curate.main, *options(tmp_path), capsys=capsys)
    assert made.code == 0, made.err
    assert "thumbnails: complete, 4 of 4 rows kept" in made.out
    assert thumbnails(run) == dict.fromkeys(kept(run), (16, 16))
    assert len(kept(run)) == 4
    again = job_cases.call(curate.main, *options(tmp_path), capsys=capsys)
    assert "nothing to do" in again.out
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0
    assert "thumbnails/index.parquet" in (run / "README.md").read_text()

    unknown = options(tmp_path, steps__thumbnails="{width: 3}")
    refused = job_cases.call(curate.main, *unknown, capsys=capsys)
    assert refused.code == 2
    assert "steps: thumbnails.width: " in refused.err


def test_a_further_step_is_recut_taken_down_and_cleaned_as_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(STEP_KINDS, "thumbnails", THUMBNAILS)
    run = tmp_path / "run"
    assert job_cases.call(curate.main, *options(tmp_path), capsys=capsys).code == 0
    other = options(tmp_path, steps__thumbnails="{side_px: 24}")
    refused = job_cases.call(curate.main, *other, capsys=capsys)
    assert refused.code == 2
    assert "thumbnails.thumbnails.side_px" in refused.err
    recut = options(tmp_path, "--steps", "thumbnails", steps__thumbnails="{side_px: 24}")
    assert job_cases.call(curate.main, *recut, capsys=capsys).code == 0
    assert thumbnails(run) == dict.fromkeys(kept(run), (24, 24))

    gone = min(kept(run))
    (tmp_path / "keys.txt").write_text(f"{gone}\n")
    down = job_cases.call(takedown.main, run, "--keys", tmp_path / "keys.txt", capsys=capsys)
    assert down.code == 0, down.err
    assert thumbnails(run).keys() == kept(run)
    assert gone not in thumbnails(run)
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0
    assert job_cases.call(clean.main, run, "--grace", 0, capsys=capsys).code == 0
    for path in (run / "thumbnails").glob("*.tar"):
        with tarfile.open(path) as tar:
            assert f"{gone}.jpg" not in tar.getnames()

    (run / committed_files(run, "thumbnails")[0]).write_bytes(b"torn")
    found = job_cases.call(verify.main, run, "--deep", capsys=capsys)
    assert found.code == 1
    assert "thumbnails/" in found.out
    assert json.loads((run / "revision.json").read_text())["steps"]["thumbnails"]["kept"] == 3
