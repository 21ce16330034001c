"""A takedown answers for itself: what matches nothing is told, and who saw the rows is listed."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs import clean, takedown, train, verify
from pipelines.run.record import read_revision
from pipelines.run.store import RunStore
from sd_core.sealed import unseal
from tests.contracts import cases
from tests.contracts.takedown_cases import write_entries
from tests.contracts.test_takedown import read_ledger
from tests.contracts.training_cases import write_config

pytestmark = pytest.mark.slow

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def run(unharmed_run: Path, tmp_path: Path) -> Path:
    """A copy of the reference run, to be changed."""
    used_by = shutil.ignore_patterns("used_by")  # other tests' words
    return Path(shutil.copytree(unharmed_run, tmp_path / "run", ignore=used_by))


def unmatched(run: Path) -> dict[str, list[str]]:
    path = run / "_work/takedown/unmatched.json"
    return unseal(path.read_bytes()) if path.exists() else {}


def kept_rows(run: Path) -> list[dict[str, Any]]:
    ledger = read_ledger(run)
    rows: list[dict[str, Any]] = ledger.filter(ledger["kept"]).to_pylist()
    return rows


def test_entries_that_match_nothing_are_counted_and_named_without_secrets(
    run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    first, second = kept_rows(run)[:2]
    nowhere = "https://user:hunter2@nowhere.example/a.png"
    urls = write_entries(tmp_path / "urls.txt", {first["url"], nowhere})
    keys = write_entries(tmp_path / "keys.txt", {second["key"], "0" * 16})
    arguments = [str(run), "--urls", urls, "--keys", keys]
    assert takedown.main([*arguments, "--must-match"]) == 1
    assert "failed: 2 entry(s) match no row" in capsys.readouterr().err
    told = {"keys": ["0" * 16], "urls": ["https://REDACTED@nowhere.example/a.png"]}
    assert unmatched(run) == told
    assert takedown.main(arguments) == 0
    assert "2 entry(s) match no row" in capsys.readouterr().out
    assert unmatched(run) == told, "what was taken down is not named, though it matches no more"
    assert takedown.main([str(run), "--keys", keys]) == 0
    assert unmatched(run) == told
    alone = write_entries(tmp_path / "key.txt", {first["key"]})
    assert takedown.main([str(run), "--keys", alone, "--must-match"]) == 0, "by its digest"
    assert unmatched(run) == told
    assert verify.main([str(run), "--deep"]) == 0
    assert clean.main([str(run), "--grace", "0s"]) == 0
    assert unmatched(run) == told


def test_no_list_at_all_is_a_usage_error(run: Path, tmp_path: Path) -> None:
    for arguments in ([], ["--must-match"], ["--trainings", str(tmp_path)]):
        with pytest.raises(SystemExit) as end:
            takedown.main([str(run), *arguments])
        assert end.value.code == 2
    empty = write_entries(tmp_path / "empty.txt", ())
    assert takedown.main([str(run), "--urls", empty]) == 2
    assert takedown.main([str(run), "--prompts", write_entries(tmp_path / "p.txt", {"a"})]) == 2


def training(run: Path, output: Path, **changes: Any) -> list[str]:
    path = write_config(
        output.with_suffix(".yaml"),
        run / "latents",
        output,
        **{"loop__steps": 4, "loop__checkpoint_every": 2, "optimizer__schedule": "constant"},
        **changes,
    )
    return ["--config", str(path)]


def test_a_takedown_lists_the_trainings_that_saw_the_rows(
    run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    output = tmp_path / "outputs" / "model"
    output.parent.mkdir()
    arguments = training(run, output)
    before = cases.data_files(run)
    assert train.main(arguments) == 0
    revision = read_revision(RunStore(str(run)))
    word = next((run / "used_by").iterdir())
    assert unseal(word.read_bytes()) == {
        "job": "train",
        "output": str(output),
        "uses": [
            {
                "revision": revision.number,
                "select": revision.steps["select"].fingerprint,
                "encode": revision.steps["encode"].fingerprint,
                "first_step": 0,
                "last_step": 4,
            }
        ],
    }
    assert train.main([*arguments, "--set", "loop.steps=6"]) == 0
    assert unseal(word.read_bytes())["uses"][0]["last_step"] == 6
    assert cases.data_files(run) == before
    assert verify.main([str(run), "--deep"]) == 0

    kept = [row["key"] for row in kept_rows(run)]
    dropped = read_ledger(run).to_pylist()
    other = next(row["url"] for row in dropped if row["reason"] == "http_gone")
    capsys.readouterr()
    assert takedown.main([str(run), "--urls", write_entries(tmp_path / "o.txt", {other})]) == 0
    assert "training" not in capsys.readouterr().out, "no training saw a row without an image"
    (tmp_path / "outputs" / "other").mkdir()
    shutil.copy(output / "run.json", tmp_path / "outputs" / "other")
    entries = write_entries(tmp_path / "keys.txt", kept[:2])
    looked = [str(run), "--keys", entries, "--trainings", str(output.parent)]
    assert takedown.main(looked) == 0
    said = capsys.readouterr().out
    assert f"training {output} (revision {revision.number}, steps 0 to 6) has seen 2 of" in said
    assert f"training {output.parent}/other (steps 0 to 0) may have seen such rows" in said
    assert clean.main([str(run), "--grace", "0s"]) == 0
    assert word.exists()
    assert takedown.main(looked) == 0
    assert f"training {output} (revision {revision.number}, steps" in capsys.readouterr().out

    word.write_text(word.read_text()[:40])
    assert verify.main([str(run)]) == 1
    assert "used_by" in capsys.readouterr().out


def test_a_training_on_a_run_that_cannot_be_written_says_so_and_goes_on(
    run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    (run / "used_by").write_text("a file in its place, as good as a mount that is read only")
    assert train.main(training(run, tmp_path / "model")) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "used_by" in line]
    assert len(told) == 1
    assert "a takedown there will not list this job" in told[0]


def test_a_cache_outside_any_run_is_said_in_one_line(
    run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    shutil.copytree(run / "_work/latents", tmp_path / "alone" / "latents")
    assert train.main(training(tmp_path / "alone", tmp_path / "model")) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "used_by" in line]
    assert len(told) == 1
    assert "it lies in no run" in told[0]
    assert not (tmp_path / "alone" / "used_by").exists()
