"""No model is loaded for shards of which every row has dropped already."""

import shutil
from pathlib import Path

import pytest

from jobs import curate, verify
from pipelines import open_run
from pipelines.run.draft_store import DraftStore
from pipelines.run.record import read_revision
from pipelines.run.store import RunStore
from pipelines.steps.score import ScoreStep
from tests.contracts import cases
from tests.contracts.cases import ServedList

pytestmark = pytest.mark.slow
DEMO = str(cases.ROOT / "configs/curate/demo.yaml")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which models are loaded from now on, by a runner in this process."""
    found: list[str] = []
    for step in ("score", "encode"):
        module, name = f"pipelines.steps.{step}.step", f"load_{step}_models"

        def refuse(*arguments: object, of: str = step, **options: object) -> None:
            found.append(of)
            raise AssertionError(f"{of}: loaded for nothing")

        monkeypatch.setattr(f"{module}.{name}", refuse)
    return found


def test_a_run_of_which_nothing_is_fetched_loads_no_model(
    tmp_path: Path, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "list.csv"
    rows = [f"http://127.0.0.1:9/{n}.jpg,a caption {n}" for n in range(12)]
    listed.write_text("\n".join(["url,TEXT", *rows]))
    settings = (f"source.path={listed}", f"output={tmp_path / 'run'}", "plan.rows_per_shard=5")
    more = ("download.allow_networks=[127.0.0.0/8]", "download.retries=0", "engine.runner=local")
    arguments = [part for each in (*settings, *more) for part in ("--set", each)]
    assert curate.main(["--config", DEMO, *arguments]) == 4
    assert not loaded
    assert verify.main([str(tmp_path / "run"), "--deep"]) == 0
    assert open_run(tmp_path / "run").ledger(["reason"])["reason"].unique().to_pylist() == [
        "connection_failed"
    ]
    assert list(open_run(tmp_path / "run").latents()) == []


def test_a_cut_that_leaves_nothing_loads_no_model_and_no_cache_is_left_to_readers(
    served_list: ServedList, unharmed_run: Path, tmp_path: Path, loaded: list[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(unharmed_run, run)
    config = cases.configuration(
        served_list.path, run, select__rules="[{column: aesthetic_v1, min: 11}]"
    )
    cases.run(config, steps=("select", "encode"))
    assert not loaded
    assert read_revision(RunStore(str(run))).steps["encode"].kept == 0
    assert verify.main([str(run), "--deep"]) == 0


def test_a_shard_without_images_is_the_same_with_and_without_the_models(
    served_list: ServedList, unharmed_run: Path
) -> None:
    """Its file has the name that its hash gives it; workers wrote it that had scored others."""
    config, run = cases.configuration(served_list.path, unharmed_run), open_run(unharmed_run)
    draft, score = DraftStore.over(run.store), run.committed("score")
    assert config.score is not None
    step = ScoreStep(
        draft,
        fingerprint=score.fingerprint,
        images=run.committed("download"),
        config=config.score,
        torch_threads=1,
    )
    empty = [shard for shard in sorted(score.shards()) if step.is_light(shard)]
    assert empty
    for shard in empty:
        step.run(shard)
        made = score.file(shard, "facts/score")
        assert made is not None
        assert made.path in draft.written
