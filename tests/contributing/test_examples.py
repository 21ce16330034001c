"""The worked examples of CONTRIBUTING.md, each added from outside and run by the real command."""

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import feather

from jobs import curate, report, takedown, verify
from jobs.demo.server import LoopbackServer
from pipelines.rows.ledger import LEDGER, SCORE_FACTS
from pipelines.sources.formats import FORMATS
from pipelines.steps.score.scorers import SCORERS
from tests.contracts import job_cases, source_cases
from tests.contributing.example_scorer import Colourfulness
from tests.contributing.example_source import ArrowList
from tests.run_cases import committed_files

SHADES = (0, 60, 120, 180, 240)


def colourfulness_of(pixels: np.ndarray) -> float:
    """By the formula as the paper has it, in float64."""
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    one, two = red - green, 0.5 * (red + green) - blue
    return float(np.hypot(one.std(), two.std()) + 0.3 * np.hypot(one.mean(), two.mean()))


def pictures(folder: Path) -> Path:
    """A tar of five coloured pictures and a grey one."""
    grey = folder / "grey.png"
    Image.new("RGB", (96, 80), (90, 90, 90)).save(grey)
    members = [(f"{shade:03d}.jpg", source_cases.picture(shade)) for shade in SHADES]
    members.append(("grey.png", grey.read_bytes()))
    texts = [(f"{name.split('.')[0]}.txt", f"picture {name}".encode()) for name, _ in members]
    return source_cases.write_tar(folder / "pictures.tar", sorted(members + texts))


def options(folder: Path, *, least: float = 10.0, **more: Any) -> list[str]:
    """A curation that scores colourfulness alone, with no model at all."""
    score = {"score": "{similarity: false, colourfulness: true}", "select__thresholds": "{}"}
    rules = {"select__rules": f"[{{column: colourfulness, min: {least}}}]"}
    told = {**score, **rules, "plan__rows_per_shard": 4, "image__min_side_px": 8} | more
    source = folder / "pictures.tar"
    return job_cases.curate(source, folder / "run", "--steps", "download,score,select", **told)


def tables(run: Path, folder: str) -> pa.Table:
    paths = committed_files(run, folder)
    return pa.concat_tables(pq.read_table(path) for path in paths)


def stored(run: Path) -> dict[str, np.ndarray]:
    """Key to the pixels of each stored image."""
    found = {}
    for path in (run / "_work/images").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    content = tar.extractfile(member)
                    assert content is not None
                    found[member.name.removesuffix(".jpg")] = np.asarray(Image.open(content))
    return found


def test_a_scorer_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path)
    refused = job_cases.call(curate.main, *options(tmp_path), capsys=capsys)
    assert refused.code == 2
    assert "score.colourfulness: unknown key; allowed: aesthetic_v1, aesthetic_v2" in refused.err

    with monkeypatch.context() as added:
        added.setitem(SCORERS, "colourfulness", Colourfulness)
        assert curate.main(options(tmp_path)) == 0
        run = tmp_path / "run"
        facts, ledger = tables(run, "facts/score"), tables(run, "ledger")
        assert facts.column_names == [*SCORE_FACTS.names, "colourfulness"]
        assert ledger.column_names[: len(LEDGER) + 1] == [*LEDGER.names, "colourfulness"]
        expected = {key: colourfulness_of(pixels) for key, pixels in stored(run).items()}
        for table in (facts, ledger):
            made = dict(
                zip(table["key"].to_pylist(), table["colourfulness"].to_pylist(), strict=True)
            )
            assert made == pytest.approx(expected, abs=1e-3)
        assert facts["aesthetic_v1"].null_count == facts.num_rows == 6
        told = {row["caption"]: (row["reason"], row["rule"]) for row in ledger.to_pylist()}
        assert told.pop("picture grey.png") == ("value_below_min", "colourfulness >= 10")
        assert set(told.values()) == {(None, None)}
        assert verify.main([str(run), "--deep"]) == 0
        assert report.main([str(run)]) == 0
        assert "colourfulness" in (run / "report/index.html").read_text()
        assert_a_changed_score_is_found(run, tmp_path / "changed", capsys)

        least = sorted(expected.values())[2] + 0.01
        recut = options(tmp_path, least=least)
        recut[recut.index("download,score,select")] = "select"
        assert curate.main(recut) == 0
        kept = tables(run, "ledger").filter(tables(run, "ledger")["kept"])
        assert kept.num_rows == sum(value >= least for value in expected.values())
        keys = tmp_path / "keys.txt"
        keys.write_text(kept["key"][0].as_py())
        assert takedown.main([str(run), "--keys", str(keys)]) == 0

    # Whoever lacks the scorer can still check and read the run.
    assert "colourfulness" not in SCORERS
    assert verify.main([str(run), "--deep"]) == 0
    assert tables(run, "facts/score").num_rows == 5


def assert_a_changed_score_is_found(
    run: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, copy)
    path = copy / committed_files(copy, "ledger")[0]
    ledger = pq.read_table(path)
    at = ledger.schema.get_field_index("colourfulness")
    pq.write_table(
        ledger.set_column(
            at, ledger.schema.field(at), pc.add(ledger[at], pa.scalar(1, pa.float32()))
        ),
        path,
    )
    told = job_cases.call(verify.main, copy, "--deep", capsys=capsys)
    assert told.code == 1
    assert "row(s) differ" in told.out + told.err
    pq.write_table(ledger.drop_columns(["colourfulness"]), path)
    told = job_cases.call(verify.main, copy, "--deep", capsys=capsys)
    assert told.code == 1
    assert "no column colourfulness: float" in told.out + told.err


def test_a_rule_by_a_score_that_is_not_asked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SCORERS, "colourfulness", Colourfulness)
    pictures(tmp_path)
    for score in ("null", "{similarity: false, colourfulness: false}", "{colourfulness: {a: 1}}"):
        told = job_cases.call(curate.main, *options(tmp_path, score=score), capsys=capsys)
        assert told.code == 2
        assert {
            "null": "select.rules.0: nothing in `score` makes colourfulness",
            "{similarity: false, colourfulness: false}": "score: nothing to score",
            "{colourfulness: {a: 1}}": "score.colourfulness.a: unknown key",
        }[score] in told.err
    assert not (tmp_path / "run").exists()


def test_a_source_format_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "web"
    folder.mkdir()
    for shade in SHADES:
        (folder / f"{shade}.jpg").write_bytes(source_cases.picture(shade))
    with LoopbackServer(folder) as server:
        names = [*(f"{shade}.jpg" for shade in SHADES), "gone.jpg"]
        table = pa.table(
            {
                "url": [f"{server.url}/{name}" for name in names],
                "caption": [f"picture {name}" for name in names],
                "likes": list(range(len(names))),
            }
        )
        source = tmp_path / "list.arrow"
        feather.write_feather(table, source)
        assert source_cases.run_job(source, tmp_path / "run") == 2
        assert "list.arrow cannot be told from its name" in capsys.readouterr().err

        monkeypatch.setitem(FORMATS, "arrow", ArrowList())
        least = "select.rules=[{column: source_likes, min: 1}]"
        assert source_cases.run_job(source, tmp_path / "run", least) == 0
    rows = source_cases.ledger(tmp_path / "run")
    assert [row["caption"] for row in rows] == table["caption"].to_pylist()
    assert [row["source_likes"] for row in rows] == list(range(6))
    assert [row["reason"] for row in rows] == ["value_below_min", *[None] * 4, "http_not_found"]
    assert verify.main([str(tmp_path / "run"), "--deep"]) == 0
