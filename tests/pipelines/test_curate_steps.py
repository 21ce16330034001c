"""What decides the fingerprints of curate's steps, and whether a step may run."""

from pathlib import Path

import pytest

from pipelines.curate import CurateConfig, curate
from pipelines.curate_steps import CurateSteps
from pipelines.engine.chain import QuarantineError
from pipelines.engine.config import EngineConfig
from pipelines.manifest import Manifest, create_manifest
from pipelines.plan import PlanConfig, make_plan
from pipelines.run import complete_step
from pipelines.sources import Source, SourceConfig
from pipelines.stages.select import SelectConfig, Threshold
from pipelines.storage import RunStore

ASPECT = {"width": Threshold(min=64), "height": Threshold(min=64)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "list.csv").write_text("url,caption,pass\nhttp://a.example/1.jpg,a,3\n")
    return tmp_path


def make_steps(folder: Path, thresholds: dict[str, Threshold]) -> CurateSteps:
    config = CurateConfig(
        output=str(folder / "run"),
        source=SourceConfig(path=str(folder / "list.csv")),
        select=SelectConfig(thresholds=thresholds),
        engine=EngineConfig(runner="local"),
    )
    store, source = RunStore(config.output), Source(config.source)
    return CurateSteps(config, store, source, make_plan(source, PlanConfig(), store=store))


def fingerprint_of_select(folder: Path, thresholds: dict[str, Threshold]) -> str:
    return make_steps(folder, thresholds).identities["select"].fingerprint


def test_order_of_thresholds_is_an_option(folder: Path) -> None:
    reverse = dict(reversed(ASPECT.items()))
    assert fingerprint_of_select(folder, ASPECT) == fingerprint_of_select(folder, dict(ASPECT))
    assert fingerprint_of_select(folder, ASPECT) != fingerprint_of_select(folder, reverse)


def test_bound_on_a_column_with_the_name_of_a_secret_is_an_option(folder: Path) -> None:
    one, two = ({"source_pass": Threshold(min=bound)} for bound in (1, 2))
    assert fingerprint_of_select(folder, one) != fingerprint_of_select(folder, two)


def test_step_alone_does_not_run_over_more_quarantined_shards_than_allowed(folder: Path) -> None:
    job = make_steps(folder, {})
    download = job.identities["download"]
    create_manifest(
        job.store,
        Manifest(
            step="download",
            fingerprint=download.fingerprint,
            shard_id=0,
            files=(),
            rows_in=1,
            kept=0,
            dropped={"shard_quarantined": 1},
            quarantined="boom",
        ),
    )
    complete_step(job.store, download, num_shards=1, folders=job.folders("download"))
    with pytest.raises(QuarantineError, match=r"download: 1 shard\(s\) are quarantined"):
        curate(job.config, steps=["select"], say=lambda line: None)
