"""The seed is the noise: sweeps can be compared, keys do not matter, metadata makes it again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.verify import main as verify
from pipelines.steps.generate import config as generate_config
from pipelines.steps.generate import shard_files
from tests.contracts import generation_cases as cases
from tests.contracts.test_generation_sources import decoded_sources

pytestmark = pytest.mark.slow

TEXT = "a large red circle in the center on a white background"


def by_key(output: Path, name: str) -> dict[str, Any]:
    ledger = cases.table(output, "ledger")
    return dict(zip(ledger["key"].to_pylist(), ledger[name].to_pylist(), strict=True))


def test_an_explicit_seed_is_the_noise_whatever_key_and_settings(tmp_path: Path) -> None:
    samplers = ("dpmpp_2m", "euler_a", "lcm")
    rows: list[dict[str, Any]] = []
    for sampler in samplers:
        same = {"prompt": TEXT, "sampler": sampler}
        rows += [
            {**same, "key": f"{sampler}-seven", "seed": 7, "num_images": 2},
            {**same, "key": f"{sampler}-named", "seed": 7},
            {**same, "key": f"{sampler}-eight", "seed": 8},
            {**same, "key": f"{sampler}-swept", "seed": 7, "guidance_scale": 4.0},
            {**same, "key": f"{sampler}-longer", "seed": 7, "num_inference_steps": 3},
        ]
    rows.append({"prompt": "a blue star", "key": "another", "seed": 7})
    rows.append({"prompt": TEXT, "key": "last", "seed": 2**63 - 1, "num_images": 2})
    path = cases.write_prompts(tmp_path / "p.parquet", rows)
    assert cases.command(path, tmp_path / "run") == 0
    images = {k: cases.pixels(v) for k, v in cases.image_files(tmp_path / "run").items()}
    for sampler in samplers:
        assert np.array_equal(images[f"{sampler}-seven-0"], images[f"{sampler}-named-0"])
        assert np.array_equal(images[f"{sampler}-seven-1"], images[f"{sampler}-eight-0"])
        assert not np.array_equal(images[f"{sampler}-seven-0"], images[f"{sampler}-eight-0"])
    seeds = by_key(tmp_path / "run", "noise_seed")
    assert seeds.pop("last-0") == 2**63 - 1
    assert seeds.pop("last-1") == 0
    for key, seed in seeds.items():
        assert seed == (8 if key.endswith(("seven-1", "eight-0")) else 7), key


def test_without_a_seed_the_noise_follows_from_prompt_and_run(tmp_path: Path) -> None:
    rows = [
        {"prompt": TEXT, "key": "one", "num_images": 2},
        {"prompt": TEXT, "key": "two", "guidance_scale": 4.0, "sampler": "ddim"},
        {"prompt": "a blue star", "key": "three"},
    ]
    path = cases.write_prompts(tmp_path / "p.parquet", rows)
    assert cases.command(path, tmp_path / "run") == 0
    assert cases.command(path, tmp_path / "other", generate__defaults__seed=1) == 0
    seeds, others = (by_key(tmp_path / run, "noise_seed") for run in ("run", "other"))
    assert seeds["one-0"] == seeds["two-0"] == seeds["one-1"] - 1 < 2**53
    assert seeds["one-0"] != seeds["three-0"]
    assert not set(seeds.values()) & set(others.values())
    again = [{"prompt": TEXT, "key": "one", "seed": seeds["one-0"], "num_images": 2}]
    path = cases.write_prompts(tmp_path / "again.parquet", again)
    assert cases.command(path, tmp_path / "again") == 0
    whole, found = (cases.image_files(tmp_path / run) for run in ("run", "again"))
    assert found == {key: whole[key] for key in ("one-0", "one-1")}


def test_the_members_json_says_noise_and_sizes(tmp_path: Path) -> None:
    rows = [{"prompt": TEXT, "key": "a", "seed": 5, "num_images": 2, "width": 128, "height": 64}]
    path = cases.write_prompts(tmp_path / "p.parquet", rows)
    assert cases.command(path, tmp_path / "run", generate__latents="null") == 0
    found = cases.members(tmp_path / "run")["a-1"]
    assert (found["seed"], found["image_index"], found["noise_seed"]) == (5, 1, 6)
    assert (found["width"], found["height"]) == (128, 64)


def test_a_metadata_folder_makes_images_of_every_kind_again(
    unharmed_run: Path, tmp_path: Path
) -> None:
    first, second = decoded_sources(unharmed_run, 2)
    (tmp_path / "masks").mkdir()
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 255
    Image.fromarray(half).save(tmp_path / "masks/half.png")
    rows = [
        {"prompt": TEXT, "key": "seeded", "seed": 3, "num_images": 3},
        {"prompt": TEXT, "key": "last", "seed": 2**63 - 1, "num_images": 2},
        {"prompt": 'un étoile\nbleue, "rouge"', "num_images": 2, "negative_prompt": "blurry"},
        {"prompt": TEXT, "key": "one", "noise_seed": 11, "image_index": 4},
        {"prompt": TEXT, "key": "swept", "guidance_scale": 1.0},
        {"prompt": TEXT, "key": "swept", "guidance_scale": 3.0, "num_images": 2},
        {"prompt": TEXT, "key": "noisy", "sampler": "euler_a", "num_images": 2},
        {"prompt": TEXT, "key": "near", "init_key": first, "strength": 0.5, "num_images": 2},
        {"prompt": None, "key": "variation", "init_key": second},
        {"prompt": TEXT, "key": "box", "init_key": first, "mask": "[16, 16, 48, 48]", "seed": 1},
        {"prompt": TEXT, "key": "file", "init_key": second, "mask": "half.png"},
        {"prompt": TEXT, "key": "bad", "seed": -1},
    ]
    path = cases.write_prompts(tmp_path / "p.parquet", rows)
    options = {
        "generate__init": f"{{path: {unharmed_run}, masks: {tmp_path / 'masks'}}}",
        "plan__images_per_shard": 5,
    }
    run = tmp_path / "run"
    assert cases.command(path, run, **options) == 0
    assert len(list((run / "metadata").glob("*.parquet"))) > 3
    stray = run / "_work/metadata/000000-0000000000000000.parquet"
    pq.write_table(pa.table({"prompt": ["of a revision before"], "key": ["stray"]}), stray)
    cut = {"select__thresholds": "{caption_words: {min: 4}}"}
    assert cases.command(path, run, "--steps", "select,encode", **options, **cut) == 0
    again, twice = tmp_path / "again", tmp_path / "twice"
    assert cases.command(run / "metadata", again, **options) == 0
    assert cases.image_files(again) == cases.image_files(run)
    assert len(cases.image_files(again)) == 18
    names = ["image_key", "prompt", "seed", "noise_seed", "strength", "mask", "notes", "sha256"]
    assert cases.table(again, "metadata").select(names) == cases.table(run, "metadata").select(
        names
    )
    seeds = cases.table(again, "metadata").filter(pc.field("key") == "seeded")
    rows = seeds.select(["prompt", "sampler", "noise_seed"]).to_pylist()
    cases.command(cases.write_prompts(tmp_path / "seeds.parquet", rows), twice, **options)
    told = [cases.pixels(image) for image in cases.image_files(twice).values()]
    made = [cases.pixels(v) for k, v in cases.image_files(run).items() if k.startswith("seeded")]
    assert all(np.array_equal(a, b) for a, b in zip(told, made, strict=True))


def test_a_run_of_an_earlier_version_verifies_and_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    later = {"noise_seed", "notes"}
    fields = [f for f in shard_files.GENERATE_FACTS if f.name not in later]
    made = tuple(f for f in shard_files.GENERATION_FIELDS if f.name not in later)
    identity = generate_config.GenerateConfig.identity
    path = cases.write_prompts(tmp_path / "p.parquet", cases.prompts(3))
    with monkeypatch.context() as before:
        before.setattr(shard_files, "GENERATE_FACTS", pa.schema(fields))
        before.setattr(shard_files, "GENERATION_FIELDS", made)
        before.setattr(
            generate_config.GenerateConfig,
            "identity",
            lambda self: {n: v for n, v in identity(self).items() if n != "noise"},
        )
        before.setattr("pipelines.workflows.generate._refuse_earlier_noise", lambda store: None)
        assert cases.command(path, tmp_path / "run") == 0
    plan = json.loads((tmp_path / "run/_work/plan/plan.json").read_text())
    del plan["reading"], plan["own_digest"]
    (tmp_path / "run/_work/plan/plan.json").write_text(json.dumps(plan))
    files = cases.digests(tmp_path / "run")
    assert "noise_seed" not in cases.table(tmp_path / "run", "ledger").column_names
    assert verify([str(tmp_path / "run"), "--deep"]) == 0
    cases.write_prompts(path, cases.prompts(5))
    capsys.readouterr()
    assert cases.command(path, tmp_path / "run", "--grow") == 2
    said = capsys.readouterr().err
    assert "made by an earlier version, which drew noise from each row's key" in said
    assert said.count("\n") == 1
    assert cases.digests(tmp_path / "run") == files
    assert cases.command(tmp_path / "run/metadata", tmp_path / "again") == 0
    assert cases.image_files(tmp_path / "again") == cases.image_files(tmp_path / "run")
