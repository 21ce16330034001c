"""What decides the fingerprints of curate's steps, and whether a step may run."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.config import ConfigError, validate_config
from pipelines.engine.chain import QuarantineError
from pipelines.engine.config import EngineConfig
from pipelines.plan import PlanConfig, make_plan
from pipelines.run.manifest import Manifest, create_manifest
from pipelines.run.record import StepIdentity, complete_step
from pipelines.run.recorded_options import check_or_record
from pipelines.run.store import RunStore
from pipelines.sources import Source, SourceConfig
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.kinds import STEP_KINDS
from pipelines.steps.score import ScoreConfig
from pipelines.steps.select import SelectConfig, Threshold
from pipelines.workflows.curate import curate
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.curate_steps import CurateSteps

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


def curate_config(folder: Path, **select: Any) -> CurateConfig:
    """A configuration as its YAML would say it."""
    tree = {
        "output": str(folder / "run"),
        "source": {"path": str(folder / "list.csv")},
        "select": select,
        "engine": {"runner": "local"},
    }
    return validate_config(CurateConfig, tree, where="curate.yaml")


def fingerprint_of_select(folder: Path, thresholds: dict[str, Threshold]) -> str:
    return make_steps(folder, thresholds).identities["select"].fingerprint


def test_order_of_thresholds_is_an_option(folder: Path) -> None:
    reverse = dict(reversed(ASPECT.items()))
    assert fingerprint_of_select(folder, ASPECT) == fingerprint_of_select(folder, dict(ASPECT))
    assert fingerprint_of_select(folder, ASPECT) != fingerprint_of_select(folder, reverse)


def test_bound_on_a_column_with_the_name_of_a_secret_is_an_option(folder: Path) -> None:
    one, two = ({"source_pass": Threshold(min=bound)} for bound in (1, 2))
    assert fingerprint_of_select(folder, one) != fingerprint_of_select(folder, two)


@pytest.mark.parametrize("similarity", [True, False])
def test_a_run_goes_on_with_the_captions_length_that_it_began_with(
    folder: Path, similarity: bool
) -> None:
    def identity(**told: str) -> StepIdentity:
        told |= {"similarity": similarity, "embeddings": True, "clip": {"name": "preset:tiny/clip"}}  # type: ignore[dict-item]
        score = validate_config(ScoreConfig, told, where="curate.yaml")
        config = curate_config(folder).model_copy(update={"score": score})
        store, source = RunStore(config.output), Source(config.source)
        plan = make_plan(source, PlanConfig(), store=store)
        return CurateSteps(config, store, source, plan).identities["score"]

    new, full = identity(), identity(text_length="full")
    assert (new.fingerprint != full.fingerprint) is similarity  # nothing else follows captions
    assert "text_length" not in full.options["score"]
    check_or_record(RunStore(str(folder / "run")), [full], job={"job": "curate"})
    assert identity().fingerprint == full.fingerprint
    asked = identity(text_length="steps")
    assert asked.fingerprint == new.fingerprint


EARLIER_BOUNDS = {"max_memory_bytes": 448 << 20, "decode_timeout_s": 5.0}


@pytest.mark.parametrize("given", [{}, {"decode_timeout_s": 9.0}])
def test_a_run_goes_on_with_the_bounds_of_decoding_that_it_began_with(
    folder: Path, given: dict[str, float]
) -> None:
    def identity() -> StepIdentity:
        image = ImageConfig.model_validate(given)
        config = curate_config(folder).model_copy(update={"image": image})
        store, source = RunStore(config.output), Source(config.source)
        plan = make_plan(source, PlanConfig(), store=store)
        steps = CurateSteps(config, store, source, plan)
        return steps.identities["download"]

    new = identity()
    assert "decode_timeout_s" not in new.options["image"], "the clock decides nothing"
    image = {name: value for name, value in new.options["image"].items() if name != "bounds"}
    options = {**new.options, "image": {**image, **EARLIER_BOUNDS, **given}}
    earlier = StepIdentity(step="download", options=options)
    store = RunStore(curate_config(folder).output)
    check_or_record(store, [earlier], job={"job": "curate"})
    assert identity().fingerprint == earlier.fingerprint != new.fingerprint


def test_what_a_block_list_of_select_holds_is_an_option(folder: Path) -> None:
    def fingerprint() -> str:
        config = curate_config(folder, rules=[{"block_words": str(folder / "words.txt")}])
        plan = make_plan(Source(config.source), PlanConfig(), store=RunStore(config.output))
        steps = CurateSteps(config, RunStore(config.output), Source(config.source), plan)
        return steps.identities["select"].fingerprint

    (folder / "words.txt").write_text("one\n")
    first = fingerprint()
    assert fingerprint() == first
    (folder / "words.txt").write_text("two\n")
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"thresholds": {"widht": {"min": 3}}}, "thresholds.widht: not a numeric column"),
        ({"thresholds": {"url": {"min": 3}}}, "thresholds.url: not a numeric column"),
        ({"thresholds": {"row": {"min": 3}}}, "thresholds.row: not a numeric column"),
        ({"rules": [{"preset": "laion_art"}]}, "nothing in `score` makes aesthetic_v1"),
        ({"rules": [{"best_of": {"by": "aesthetic_v2", "num_images": 1}}]}, "makes aesthetic_v2"),
        ({"duplicates": {"keep": "aesthetic_v2"}}, "select.duplicates.keep: nothing in `score`"),
        ({"duplicates": {"by": ["embedding"]}}, "set score.embeddings: true"),
        ({"duplicates": {"by": ["phash"], "phash_needs_similarity": 0.9}}, "score.embeddings"),
    ],
)
def test_rules_by_what_nothing_makes_are_refused(
    folder: Path, select: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        curate_config(folder, **select)
    assert message in str(caught.value)


def test_rule_by_a_score_that_neither_list_nor_head_has_is_refused_before_anything_is_fetched(
    folder: Path,
) -> None:
    config = curate_config(folder, rules=[{"column": "punsafe", "max": 0.5}])
    with pytest.raises(ConfigError, match=r"select\.rules\.0: the list has no column punsafe"):
        curate(config, steps=["download", "select"], say=lambda line: None)
    assert not (folder / "run/facts").exists()


def test_preset_that_keeps_what_is_missing_needs_no_score(folder: Path) -> None:
    curate_config(folder, rules=[{"preset": "laion_art", "missing": "keep"}])


@pytest.mark.parametrize("sql", ["source_nothing > 1", "width >", "width > (select 1)"])
def test_condition_that_cannot_be_is_refused_before_anything_is_fetched(
    folder: Path, sql: str
) -> None:
    config = curate_config(folder, rules=[{"sql": sql}])
    with pytest.raises(ConfigError, match=r"select\.rules\.0\.sql: "):
        curate(config, steps=["download", "select"], say=lambda line: None)
    assert not (folder / "run/facts").exists()


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
    complete_step(job.store, download, num_shards=1, folders=STEP_KINDS["download"].paths, later=())
    with pytest.raises(QuarantineError, match=r"download: 1 shard\(s\) are quarantined"):
        curate(job.config, steps=["select"], say=lambda line: None)
