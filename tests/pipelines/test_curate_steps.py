"""What decides the fingerprints of curate's steps."""

from pathlib import Path

import pytest

from pipelines.curate import CurateConfig
from pipelines.curate_steps import CurateSteps
from pipelines.plan import PlanConfig, make_plan
from pipelines.sources import Source, SourceConfig
from pipelines.stages.select import SelectConfig, Threshold
from pipelines.storage import RunStore

ASPECT = {"width": Threshold(min=64), "height": Threshold(min=64)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "list.csv").write_text("url,caption,pass\nhttp://a.example/1.jpg,a,3\n")
    return tmp_path


def fingerprint_of_select(folder: Path, thresholds: dict[str, Threshold]) -> str:
    source = Source(SourceConfig(path=str(folder / "list.csv")))
    store = RunStore(str(folder / "run"))
    config = CurateConfig(
        output=store.root, source=source.config, select=SelectConfig(thresholds=thresholds)
    )
    plan = make_plan(source, PlanConfig(), store=store)
    return CurateSteps(config, store, source, plan).identities["select"].fingerprint


def test_order_of_thresholds_is_an_option(folder: Path) -> None:
    reverse = dict(reversed(ASPECT.items()))
    assert fingerprint_of_select(folder, ASPECT) == fingerprint_of_select(folder, dict(ASPECT))
    assert fingerprint_of_select(folder, ASPECT) != fingerprint_of_select(folder, reverse)


def test_bound_on_a_column_with_the_name_of_a_secret_is_an_option(folder: Path) -> None:
    one, two = ({"source_pass": Threshold(min=bound)} for bound in (1, 2))
    assert fingerprint_of_select(folder, one) != fingerprint_of_select(folder, two)
