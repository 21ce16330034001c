"""Promises of a generation: each image once, the same whatever is around it, every row counted."""

import contextlib
import itertools
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.verify import main as verify
from pipelines.config import ConfigError
from pipelines.plan import PlanError
from pipelines.rows.ledger import REASONS
from pipelines.run.record import RunMismatchError, read_revision
from pipelines.run.store import RunStore
from sd_core.cache.dataset import TrainingDataset
from sd_core.cache.latent_cache import check_caches, open_cache
from tests.contracts import generation_cases as cases
from tests.contracts.damage_cases import undetected

pytestmark = pytest.mark.slow

_NUM_PROMPTS = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One unharmed run of thirty prompts."""
    folder = tmp_path_factory.mktemp("made")
    path = cases.write_prompts(folder / "prompts.parquet", cases.prompts(_NUM_PROMPTS))
    cases.run(cases.configuration(path, folder / "run"))
    return folder / "run"


def test_every_prompt_becomes_one_image_and_the_run_verifies(made: Path) -> None:
    assert len(cases.image_files(made)) == _NUM_PROMPTS
    assert verify([str(made), "--deep"]) == 0
    steps = read_revision(RunStore(str(made))).steps
    assert steps["generate"].rows_in == steps["generate"].kept == steps["encode"].kept == 30


def test_a_flipped_bit_in_any_kind_of_file_is_found(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made, tmp_path / "copy")
    assert undetected(folder, random.Random("generation"), flips=1) == []


def test_an_image_does_not_depend_on_the_rows_around_it(made: Path, tmp_path: Path) -> None:
    whole = cases.image_files(made)
    rows = cases.prompts(_NUM_PROMPTS)
    shuffled = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))]
    others = cases.prompts(20, start=1000)
    groups = {
        "shuffled": [shuffled],
        "among others": [[*others[:7], *rows[:5], *others[7:]]],
        "in threes": [rows[0:3], rows[3:6]],
        "alone": [rows[2:3]],
    }
    for name, parts in groups.items():
        for number, part in enumerate(parts):
            folder = tmp_path / f"{name}-{number}".replace(" ", "-")
            folder.mkdir()
            path = cases.write_prompts(folder / "prompts.parquet", part)
            cases.run(cases.configuration(path, folder / "run"))
            found = cases.image_files(folder / "run")
            assert all(whole[key] == found[key] for key in found.keys() & whole.keys()), name
            assert len(found.keys() & whole.keys()) == len([r for r in part if r in rows]), name


@pytest.mark.parametrize("batch_size", [1, 16])
def test_another_batch_size_changes_a_pixel_by_at_most_one_level(
    made: Path, tmp_path: Path, batch_size: int
) -> None:
    path = cases.write_prompts(tmp_path / "prompts.parquet", cases.prompts(8))
    cases.run(cases.configuration(path, tmp_path / "run", generate__batch_size=batch_size))
    whole, found = cases.image_files(made), cases.image_files(tmp_path / "run")
    assert len(found) == 8
    for key, content in found.items():
        assert np.abs(cases.pixels(content) - cases.pixels(whole[key])).max() <= 1


def test_metadata_alone_makes_the_same_files_again(made: Path, tmp_path: Path) -> None:
    metadata = cases.table(made, "metadata")
    sampled = metadata.take(np.random.default_rng(1).choice(_NUM_PROMPTS, 10, replace=False))
    pq.write_table(sampled, tmp_path / "again.parquet")
    cases.run(cases.configuration(tmp_path / "again.parquet", tmp_path / "run"))
    whole, again = cases.image_files(made), cases.image_files(tmp_path / "run")
    assert sorted(again) == sorted(sampled["image_key"].to_pylist())
    assert all(again[key] == whole[key] for key in again)


def test_poison_is_rejected_with_its_reason_and_the_rest_is_made(tmp_path: Path) -> None:
    good = cases.prompts(10)
    poison = [
        ({"prompt": ""}, "prompt_missing"),
        ({"prompt": None}, "prompt_missing"),
        ({"prompt": "x", "width": "63"}, "size_invalid"),
        ({"prompt": "x", "height": "0"}, "size_invalid"),
        ({"prompt": "x", "sampler": "plms"}, "sampler_unknown"),
        ({"prompt": "x", "guidance_scale": float("nan")}, "guidance_scale_invalid"),
        ({"prompt": "x", "num_inference_steps": "many"}, "num_inference_steps_invalid"),
        ({"prompt": "x", "seed": -1}, "seed_invalid"),
        ({"prompt": "x", "num_images": 0}, "num_images_invalid"),
        ({"prompt": "x", "key": "a/b"}, "key_invalid"),
        ({"prompt": "x", "init_key": "0" * 16}, "init_missing"),
        ({"prompt": "x", "strength": 2.0, "init_key": "0" * 16}, "strength_invalid"),
        (dict(good[0]), "duplicate_row"),
        ({"prompt": "x", "key": "mine"}, None),
        ({"prompt": "y", "key": "mine"}, None),  # under a suffixed key
    ]
    path = cases.write_prompts(tmp_path / "prompts.parquet", [*good, *[row for row, _ in poison]])
    result, _ = cases.run(cases.configuration(path, tmp_path / "run"))
    ledger = cases.table(tmp_path / "run", "ledger")
    expected = [None] * len(good) + [reason for _, reason in poison]
    assert ledger["reason"].to_pylist() == expected
    assert set(filter(None, expected)) <= REASONS
    assert len(cases.image_files(tmp_path / "run")) == expected.count(None)
    assert "every row is accounted for" in result.funnel
    assert verify([str(tmp_path / "run"), "--deep"]) == 0


def test_a_grown_list_makes_only_what_is_new(tmp_path: Path) -> None:
    rows = cases.prompts(10)
    path = cases.write_prompts(tmp_path / "prompts.parquet", rows)
    output = tmp_path / "run"
    config = cases.configuration(path, output, generate__defaults__num_inference_steps=1)
    cases.run(config, grow=True)
    before = cases.digests(output)
    _, said = cases.run(config, grow=True)
    assert said[-1] == "nothing to do: every asked step is complete"
    cases.write_prompts(path, [*cases.prompts(3, start=50), *rows[::-1], {"prompt": ""}])
    with pytest.raises(PlanError, match="--grow"):
        cases.run(config)
    result, said = cases.run(config, grow=True)
    assert any("4 are new" in line for line in said)
    assert "13" in result.funnel
    assert "every row is accounted for" in result.funnel
    after = cases.digests(output)
    renewed = ("index.parquet", "files.parquet")
    kept = {name for name in before if not name.endswith(renewed)}
    assert all(after[name] == before[name] for name in kept)
    assert len(cases.image_files(output)) == 13
    assert verify([str(output), "--deep"]) == 0


def test_more_images_of_a_prompt_are_added_to_those_it_has(tmp_path: Path) -> None:
    path = cases.write_prompts(tmp_path / "p.parquet", [{"prompt": "a star", "num_images": 2}])
    output = tmp_path / "run"
    config = cases.configuration(path, output, generate__defaults__num_inference_steps=1)
    cases.run(config)
    first = cases.image_files(output)
    cases.write_prompts(path, [{"prompt": "a star", "num_images": 3}])
    cases.run(config, grow=True)
    after = cases.image_files(output)
    assert len(first) == 2
    assert len(after) == 3
    assert all(after[key] == first[key] for key in first)
    assert len(set(after.values())) == 3


def test_the_best_of_a_prompt_stays_one_when_the_list_grows(tmp_path: Path) -> None:
    options = {
        "score": "{clip: {name: 'preset:tiny/clip'}}",
        "select__best_of": "{by: clip_similarity}",
        "plan__images_per_shard": 2,
        "generate__defaults__num_inference_steps": 1,
    }
    path = cases.write_prompts(
        tmp_path / "p.parquet",
        [
            {"prompt": "a star", "key": "a", "num_images": 3},
            {"prompt": "a ring", "key": "b", "num_images": 2},
            {"prompt": "a ring", "key": "b", "num_images": 3},  # beside it, so in its shard
        ],
    )
    output = tmp_path / "run"
    cases.run(cases.configuration(path, output, **options))
    rows = [{"prompt": "a star", "key": "a", "num_images": 4}, {"prompt": "new", "key": "c"}]
    cases.write_prompts(path, rows)
    result, _ = cases.run(cases.configuration(path, output, **options), grow=True)
    ledger = cases.table(output, "ledger")
    kept = ledger.filter(ledger["kept"])["prompt_key"].to_pylist()
    assert sorted(kept) == ["a", "b", "c"]
    counts = Counter(ledger["reason"].to_pylist())
    assert counts == {None: 3, "ranked_below_best": 4, "key_collision": 1}
    assert "every row is accounted for" in result.funnel
    assert verify([str(output), "--deep"]) == 0
    shown = cases.members(output, "kept")
    rows = {row["key"]: row for row in ledger.filter(ledger["kept"]).to_pylist()}
    assert shown.keys() == rows.keys(), "images that lost are not shown"
    for key, told in shown.items():
        for name in ("noise_seed", "clip_similarity", "width", "height", "sampler", "sha256"):
            assert told[name] == rows[key][name], "beside the image lie its seed, score and size"
    paths = sorted((output / "metadata").iterdir())
    again = pa.concat_tables(pq.read_table(path) for path in paths)
    assert set(again["image_key"].to_pylist()) == rows.keys()


def test_a_rule_over_the_whole_run_judges_old_images_again_when_the_list_grows(
    tmp_path: Path,
) -> None:
    options = {
        "score": "{clip: {name: 'preset:tiny/clip'}}",
        "select__rules": "[{best_of: {by: clip_similarity, num_images: 2}}]",
        "generate__defaults__num_inference_steps": 1,
    }
    path = cases.write_prompts(tmp_path / "p.parquet", cases.prompts(3))
    output = tmp_path / "run"
    config = cases.configuration(path, output, **options)
    cases.run(config)
    before = cases.image_files(output)
    cases.write_prompts(path, cases.prompts(8))
    cases.run(config, grow=True)
    ledger = cases.table(output, "ledger").sort_by([("clip_similarity", "descending")])
    assert ledger["kept"].to_pylist() == [True, True, *[False] * 6]
    after = cases.image_files(output)
    assert all(after[key] == before[key] for key in before)
    assert verify([str(output), "--deep"]) == 0
    _, said = cases.run(config)
    assert said[-1] == "nothing to do: every asked step is complete"


def test_best_of_is_refused_where_a_prompts_images_lie_apart(tmp_path: Path) -> None:
    steps = {"generate__defaults__num_inference_steps": 1}
    path = cases.write_prompts(tmp_path / "p.parquet", [{"prompt": "a star", "num_images": 2}])
    score = "{clip: {name: 'preset:tiny/clip'}}"
    cases.run(cases.configuration(path, tmp_path / "run", score=score, **steps))
    cases.write_prompts(path, [{"prompt": "a star", "num_images": 3}])
    cases.run(cases.configuration(path, tmp_path / "run", score=score, **steps), grow=True)
    best = cases.configuration(
        path, tmp_path / "run", score=score, select__best_of="{by: clip_similarity}", **steps
    )
    with pytest.raises(ConfigError, match=r"select\.best_of: it chooses within a shard"):
        cases.run(best, steps=("select", "encode"))


@pytest.mark.parametrize("file_format", ["webp", "jpg"])
def test_other_image_files_go_through_the_whole_job(tmp_path: Path, file_format: str) -> None:
    path = cases.write_prompts(tmp_path / "p.parquet", cases.prompts(5))
    config = cases.configuration(
        path,
        tmp_path / "run",
        generate__image__format=file_format,
        generate__latents="{format: parquet, dtype: float32}",
        score="{clip: {name: 'preset:tiny/clip'}}",
    )
    cases.run(config)
    assert len(cases.image_files(tmp_path / "run")) == 5
    assert verify([str(tmp_path / "run"), "--deep"]) == 0


def test_an_option_that_changes_images_is_refused_and_named(made: Path) -> None:
    path = made.parent / "prompts.parquet"
    with pytest.raises(RunMismatchError, match="guidance_scale"):
        cases.run(cases.configuration(path, made, generate__defaults__guidance_scale=5.0))


def test_a_list_without_a_prompt_column_and_a_missing_model_end_with_what_to_do(
    tmp_path: Path,
) -> None:
    path = cases.write_prompts(tmp_path / "p.parquet", [{"words": "a star"}])
    with pytest.raises(PlanError, match=r"prompts\.prompt_column"):
        cases.run(cases.configuration(path, tmp_path / "run"))
    assert not (tmp_path / "run/images").exists()
    with pytest.raises(ConfigError, match="allowed: generate, score, select, publish, encode"):
        cases.run(cases.configuration(path, tmp_path / "run"), steps=("paint",))


def test_scores_choose_which_images_reach_the_cache(made: Path, tmp_path: Path) -> None:
    clip = "{clip: {name: 'preset:tiny/clip'}}"
    path = made.parent / "prompts.parquet"
    output = tmp_path / "run"
    cases.run(cases.configuration(path, output, score=clip))
    similarity = np.array(cases.table(output, "ledger")["clip_similarity"].to_pylist())
    cut = float(np.median(similarity))
    config = cases.configuration(
        path, output, score=clip, select__thresholds__clip_similarity__min=cut
    )
    cases.run(config, steps=("select", "encode"))
    kept = int((similarity.astype(np.float32) >= np.float32(cut)).sum())
    assert open_cache(str(output / "latents")).num_rows == kept < _NUM_PROMPTS
    assert verify([str(output), "--deep"]) == 0


def test_generated_latents_mix_with_curated_ones(made: Path, unharmed_run: Path) -> None:
    caches = [open_cache(str(run / "latents")) for run in (unharmed_run, made)]
    check_caches(caches, model_identity=None)


def test_a_training_sees_curated_and_generated_rows_at_the_asked_ratio(
    made: Path, unharmed_run: Path
) -> None:
    caches = [open_cache(str(run / "latents")) for run in (unharmed_run, made)]
    dataset = TrainingDataset(caches, weights=[3.0, 1.0], seed=4)
    counts = [0, 0]
    with contextlib.closing(dataset.batches(batch_size=20)) as batches:
        for batch in itertools.islice(batches, 100):
            for drawn in batch:
                counts[drawn.cache_index] += 1
    assert sum(counts) == 2000
    assert abs(counts[1] / 2000 - 0.25) <= 0.02
