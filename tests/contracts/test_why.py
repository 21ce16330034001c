"""Why a row is in the set, or is not: one command tells its life, and no secret of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs import takedown, why
from pipelines import open_run
from pipelines.report.why import life_of

pytestmark = pytest.mark.slow


def told(run: Path, what: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert why.main([str(run), what, "--json"]) == 0
    life: dict[str, Any] = json.loads(capsys.readouterr().out)
    return life


def test_a_kept_row_is_told_from_the_list_to_its_latents(
    unharmed_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = open_run(unharmed_run)
    row = run.kept().to_pylist()[-1]
    life = told(unharmed_run, row["key"], capsys)
    assert life["verdict"] == {"kept": True}
    assert life["row"]["url"] == row["url"]
    assert life["source"]["source_licence"] == row["source_licence"]
    assert life["download"]["sha256"] == row["sha256"]
    assert life["stored"]["image"].startswith("images/")
    assert (unharmed_run / life["stored"]["image"]).is_file()
    assert (unharmed_run / life["stored"]["latents"]).is_file()
    thresholds = json.loads((unharmed_run / "run.json").read_text())["config"]["select"]["rules"]
    for rule in thresholds:
        assert f"min {rule['min']:g}" in life["scores"][rule["column"]]
    number = f"{row['shard_id']}:{row['row']}"
    assert told(unharmed_run, number, capsys) == told(unharmed_run, row["url"], capsys) == life


def test_every_dropped_row_is_told_with_its_reason_and_no_null(
    unharmed_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = open_run(unharmed_run)
    for row in run.ledger().to_pylist():
        if not row["kept"]:
            life = life_of(run, f"{row['shard_id']}:{row['row']}")
            assert life["verdict"]["reason"] == row["reason"]
            assert "latents" not in life.get("stored", {})
    gone = next(r for r in run.ledger().to_pylist() if r["reason"] == "http_gone")
    capsys.readouterr()
    assert why.main([str(unharmed_run), gone["key"]]) == 0
    said = capsys.readouterr().out
    assert "reason: http_gone" in said
    assert "null" not in said


def test_a_row_that_is_none_or_was_taken_down_is_said_so_without_a_secret(
    unharmed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why.main([str(unharmed_run), "https://me:hunter2@nowhere.example/a.jpg"]) == 2
    said = capsys.readouterr().err
    assert "https://REDACTED@nowhere.example/a.jpg" in said
    assert why.main([str(unharmed_run), "0:99999"]) == 2
    output = Path(shutil.copytree(unharmed_run, tmp_path / "run"))
    row = open_run(output).kept().to_pylist()[0]
    (tmp_path / "keys.txt").write_text(row["key"])
    assert takedown.main([str(output), "--keys", str(tmp_path / "keys.txt")]) == 0
    life = told(output, row["key"], capsys)
    assert life["verdict"] == {"kept": False, "reason": "taken_down"}
    assert row["caption"] not in json.dumps(life)
