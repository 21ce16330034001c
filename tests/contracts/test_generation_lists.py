"""Lists of prompts as people have them: nothing in a row is misread, ignored or lost in silence."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.verify import main as verify
from tests.contracts import generation_cases as cases
from tests.contracts.test_generation_sources import decoded_sources

pytestmark = pytest.mark.slow

TEXT = "a large red circle in the center on a white background"
EPSILON = {  # the usual schedule in place of the tiny model's own: every sampler goes with it
    "generate__model": "{model: 'preset:tiny/model', noise_schedule: {prediction_type: epsilon}}"
}
ONE_STEP = {"generate__defaults__num_inference_steps": 1, "generate__latents": "null"}


def ledger_of(output: Path, *names: str) -> list[tuple[Any, ...]]:
    """Those columns of the ledger, a tuple for each row in order."""
    ledger = cases.table(output, "ledger")
    return list(zip(*(ledger[name].to_pylist() for name in names), strict=True))


def test_refused_rows_keep_their_key_in_the_ledger(tmp_path: Path) -> None:
    rows = [
        {"prompt": "x", "key": "seed", "seed": "-1"},
        {"prompt": "x", "key": "steps", "num_inference_steps": "many"},
        {"prompt": "", "key": "empty"},
        {"prompt": "x", "key": "third", "image_index": "3", "width": "0"},
        {"prompt": "x", "key": "beyond", "num_inference_steps": "5000"},
        {"prompt": "x", "key": "sampler", "sampler": "my own"},
        {"prompt": "x", "key": "a/b"},
        {"prompt": "x"},
        {"prompt": "x", "seed": "-1"},
        {"prompt": "x", "key": "good"},
    ]
    path = cases.write_prompts(tmp_path / "p.parquet", rows)
    assert cases.command(path, tmp_path / "run", **ONE_STEP) == 0
    found = ledger_of(tmp_path / "run", "key", "reason")
    unnamed = [key for key, _ in found[6:9]]
    assert [*found[:6], found[9]] == [
        ("seed-0", "seed_invalid"),
        ("steps-0", "num_inference_steps_invalid"),
        ("empty-0", "prompt_missing"),
        ("third-3", "size_invalid"),
        ("beyond-0", "num_inference_steps_invalid"),
        ("sampler-0", "sampler_unknown"),
        ("good-0", None),
    ]
    assert unnamed[0] == unnamed[1]  # the hash of the same prompt without settings
    assert all(re.fullmatch(r"[0-9a-f]{16}-0", key) for key in unnamed)
    assert [reason for _, reason in found[6:9]] == ["key_invalid", None, "seed_invalid"]
    assert verify([str(tmp_path / "run"), "--deep"]) == 0


def test_settings_that_do_nothing_are_said_once_and_stand_in_the_row(
    unharmed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(iter(decoded_sources(unharmed_run, 1)))
    rows = [
        {"prompt": "a", "key": "unguided", "guidance_scale": 1.0, "negative_prompt": "blurry"},
        {"prompt": "b", "key": "half", "guidance_scale": 0.5},
        {"prompt": "c", "key": "alone", "strength": 0.5},
        {"prompt": "d", "key": "still", "strength": 0.3, "init_key": first},
        {"prompt": "e", "key": "fine", "strength": 0.5, "init_key": first, "negative_prompt": "x"},
        {"prompt": "f", "key": "many", "image_index": 2, "num_images": 4},
        {"prompt": "g", "key": "two", "seed": 4, "noise_seed": 5},
        {"prompt": "h", "key": "mask", "mask": "[0, 0, 32, 32]"},
        {"prompt": "i", "key": "none", "num_images": 0},
    ]
    path = cases.write_prompts(tmp_path / "p.parquet", rows)
    options = {"generate__init": f"{{path: {unharmed_run}}}"}
    assert cases.command(path, tmp_path / "run", **options) == 0
    said = capsys.readouterr().out
    for note in (
        *("negative_prompt_unused: 1", "guidance_scale_unused: 1", "strength_unused: 1"),
        *("strength_without_steps: 1", "num_images_unused: 1", "seed_unused: 1"),
    ):
        assert said.count(f"{note} row(s)") == 1, note
    assert dict(ledger_of(tmp_path / "run", "prompt_key", "notes")) == {
        "unguided": "negative_prompt_unused",
        "half": "guidance_scale_unused",
        "alone": "strength_unused",
        "still": "strength_without_steps",
        **dict.fromkeys(("fine", "many", "two", "mask", "none")),
    }
    refused = dict(ledger_of(tmp_path / "run", "prompt_key", "reason"))
    assert (refused["mask"], refused["none"]) == ("init_missing", "num_images_invalid")
    assert cases.members(tmp_path / "run")["alone-0"]["notes"] == "strength_unused"
    assert verify([str(tmp_path / "run"), "--deep"]) == 0
    assert cases.command(path, tmp_path / "run", **options) == 0
    assert "unused" not in capsys.readouterr().out


def test_steps_that_a_sampler_cannot_take_cost_their_row_alone(
    unharmed_run: Path, tmp_path: Path
) -> None:
    first = next(iter(decoded_sources(unharmed_run, 1)))
    asked: list[tuple[str, int, dict[str, Any], int | None]] = [
        ("lcm", 5, {}, None),
        ("lcm", 51, {}, 50),
        ("lcm", 51, {"init_key": first, "strength": 0.1}, 50),
        ("ddim", 100, {}, 99),
        ("ddim", 101, {}, 99),
        ("ddim", 100, {"init_key": first, "strength": 0.1}, None),
        ("pndm", 101, {}, 99),
        ("euler", 100, {}, 99),
        ("euler_a", 101, {}, 99),
        ("dpmpp_2m", 99, {}, 98),
        ("dpmpp_2m", 100, {}, 98),
        ("dpmpp_2m", 99, {"init_key": first, "mask": "[0, 0, 8, 8]", "strength": 0.1}, None),
        ("unipc", 100, {}, 98),
    ]
    rows = [
        {"prompt": TEXT, "key": f"k{at}", "sampler": name, "num_inference_steps": steps, **rest}
        for at, (name, steps, rest, _) in enumerate(asked)
    ]
    path = cases.write_prompts(tmp_path / "p.parquet", rows)
    options = {"generate__init": f"{{path: {unharmed_run}}}", "generate__batch_size": 1}
    schedule = "{prediction_type: epsilon, num_train_timesteps: 100}"
    options["generate__model"] = f"{{model: 'preset:tiny/model', noise_schedule: {schedule}}}"
    assert cases.command(path, tmp_path / "run", **options) == 0
    found = ledger_of(tmp_path / "run", "reason", "error_message")
    for (name, steps, _, most), (reason, message) in zip(asked, found, strict=True):
        assert reason == (None if most is None else "num_inference_steps_invalid"), (name, steps)
        assert most is None or f"found {steps}; sampler {name} " in message
        assert most is None or f"takes up to {most} " in message, (name, steps, message)
    assert len(cases.image_files(tmp_path / "run")) == 3


@pytest.mark.parametrize(
    ("default", "said"),
    [
        ("num_inference_steps=1000", "num_inference_steps: found 1000; sampler dpmpp_2m .* 998"),
        ("sampler=flow_euler", "sampler: found 'flow_euler', .* allowed: ddim, ddpm, pndm"),
    ],
)
def test_a_default_that_cannot_work_ends_the_job_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], default: str, said: str
) -> None:
    path = cases.write_prompts(tmp_path / "p.parquet", [{"prompt": TEXT}])
    name, _, value = default.partition("=")
    assert (
        cases.command(path, tmp_path / "run", **EPSILON, **{f"generate__defaults__{name}": value})
        == 2
    )
    assert re.search(rf"generate\.defaults\.{said}", capsys.readouterr().err)
    assert not (tmp_path / "run/plan").exists()
    assert not (tmp_path / "run/run.json").exists()


def test_a_repeated_key_with_other_settings_gets_a_suffix_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "x" * 80
    sweep = [
        {"prompt": TEXT, "key": key, "seed": 1, "guidance_scale": scale}
        for key in ("mine", long)
        for scale in (3.0, 5.0, 7.0)
    ]
    path = cases.write_prompts(tmp_path / "p.parquet", [*sweep, dict(sweep[1])])
    output = tmp_path / "run"
    assert cases.command(path, output, **ONE_STEP) == 0
    assert "4 row(s) repeat a key with other settings" in capsys.readouterr().out
    names = ledger_of(output, "prompt_key", "guidance_scale", "reason")
    assert (names[0][0], names[3][0]) == ("mine", long)
    assert all(re.fullmatch(r"mine-[0-9a-f]{8}", name) for name, *_ in names[1:3])
    assert all(re.fullmatch(r"x{71}-[0-9a-f]{8}", name) for name, *_ in names[4:6])
    assert names[6] == (names[1][0], 5.0, "duplicate_row")
    images = cases.image_files(output)
    assert len(images) == len(set(images.values())) == 6
    assert {seed for (seed,) in ledger_of(output, "noise_seed") if seed} == {1}
    # The suffix follows from the row's own settings: elsewhere in the list, or in a grown one.
    moved = [sweep[0], sweep[2], {"prompt": "z", "key": names[1][0]}, sweep[1], *sweep[3:]]
    moved.append({**sweep[1], "num_images": 2})
    cases.write_prompts(path, moved)
    assert cases.command(path, output, "--grow", **ONE_STEP) == 0
    grown = cases.image_files(output)
    assert {key: grown[key] for key in images} == images
    added = sorted(grown.keys() - images.keys())
    assert len(added) == 2
    assert added[0] == f"{names[1][0]}-1"  # the second image of the row with that suffix
    assert re.fullmatch(rf"{names[1][0]}-[0-9a-f]{{8}}-0", added[1])  # a real key that is taken
    cases.write_prompts(path, moved[:2])
    assert cases.command(path, tmp_path / "other", **ONE_STEP) == 0
    assert f"{names[2][0]}-0" in cases.image_files(tmp_path / "other")
    assert verify([str(output), "--deep"]) == 0


def test_a1111s_log_is_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.csv").write_text(
        "prompt,seed,width,height,sampler,cfgs,steps,filename,negative_prompt\n"
        '"a star, red",3735928559,64,64,Euler a,4.5,3,00001.png,blurry\n'
        "a ring,7,64,128,DPM++ 2M Karras,7,2,00002.png,\n"
        "a ring,8,64,64,DPM++ SDE Karras,7,2,00003.png,\n"
        "a star,9,64,64,PLMS,7,2,00004.png,\n"
    )
    options = {**EPSILON, "generate__latents": "null"}  # a cache holds images of one size
    assert cases.command(tmp_path / "log.csv", tmp_path / "run", **options) == 0
    said = capsys.readouterr().out
    assert "the column cfgs is read as guidance_scale" in said
    assert "the column steps is read as num_inference_steps" in said
    assert "did you mean" not in said
    names = ("seed", "sampler", "guidance_scale", "num_inference_steps", "negative_prompt")
    found = ledger_of(tmp_path / "run", *names, "height", "source_filename", "reason")
    assert found[0] == (0xDEADBEEF, "euler_a", 4.5, 3, "blurry", 64, "00001.png", None)
    assert found[1] == (7, "dpmpp_2m_karras", 7.0, 2, "", 128, "00002.png", None)
    assert found[2][-1] == "sampler_unknown"
    assert found[3][1] == "pndm"
    messages = [message for (message,) in ledger_of(tmp_path / "run", "error_message")]
    assert "found 'DPM++ SDE Karras', allowed are ddim, ddpm, pndm, euler, " in messages[2]
    seeds = [seed for (seed,) in ledger_of(tmp_path / "run", "noise_seed")]
    assert seeds == [0xDEADBEEF, 7, None, 9]


def diffusiondb(path: Path) -> Path:
    """Rows in the schema of DiffusionDB's metadata.parquet."""
    samplers = [1, 2, 3, 4, 8, 3, 3]
    columns = {
        "image_name": pa.array([f"{n}.png" for n in range(7)]),
        "prompt": pa.array([TEXT] * 7),
        "part_id": pa.array([1] * 7, pa.uint16()),
        "seed": pa.array([4_294_967_295, 1, 1, 1, 1, 2, 2], pa.uint32()),
        "step": pa.array([2] * 7, pa.uint16()),
        "cfg": pa.array([7.0] * 6 + [9.0], pa.float32()),
        "sampler": pa.array(samplers, pa.uint8()),
        "width": pa.array([64] * 7, pa.uint16()),
        "height": pa.array([64] * 7, pa.uint16()),
        "user_name": pa.array(["ab" * 32] * 7),
        "timestamp": pa.array([1_660_000_000_000_000] * 7, pa.timestamp("us", "UTC")),
        "image_nsfw": pa.array([0.1] * 7, pa.float32()),
        "prompt_nsfw": pa.array([0.1] * 7, pa.float32()),
    }
    pq.write_table(pa.table(columns), path)
    return path


def test_diffusiondbs_metadata_is_a_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = diffusiondb(tmp_path / "metadata.parquet")
    assert cases.command(path, tmp_path / "run", **EPSILON) == 0
    said = capsys.readouterr().out
    assert "the column step is read as num_inference_steps" in said
    assert "the column cfg is read as guidance_scale" in said
    assert "did you mean" not in said
    found = ledger_of(tmp_path / "run", "sampler", "seed", "guidance_scale", "reason")
    assert found[0] == ("ddim", 4_294_967_295, 7.0, None)
    assert [sampler for sampler, *_ in found] == [
        *("ddim", "pndm", "euler", "euler_a", "k_lms", "euler", "euler")
    ]
    assert [reason for *_, reason in found] == [None] * 4 + ["sampler_unknown", None, None]
    keys = [key for (key,) in ledger_of(tmp_path / "run", "prompt_key")]
    assert len(set(keys)) == 7  # one prompt, seven keys
    other = {**EPSILON, "prompts__samplers": "{k_lms: dpmpp_2m, '3': ddim}"}
    assert cases.command(path, tmp_path / "other", **other) == 0
    assert [sampler for (sampler,) in ledger_of(tmp_path / "other", "sampler")] == [
        *("ddim", "pndm", "ddim", "euler_a", "dpmpp_2m", "ddim", "ddim")
    ]
    assert verify([str(tmp_path / "run"), "--deep"]) == 0


def test_a_near_miss_of_a_setting_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meant = {
        "guidence_scale": "guidance_scale",
        "neg_prompt": "negative_prompt",
        "negativ_prompt": "negative_prompt",
        "n_iter": "num_images",
        "step": "num_inference_steps",
        "inference_steps": "num_inference_steps",
        "seeds": "seed",
        "widht": "width",
        "samplers": "sampler",
        "denoising_strength": "strength",
    }
    row = {"prompt": TEXT, **dict.fromkeys(meant, "2"), "Note": "x", "weight": 1, "category": "y"}
    path = cases.write_prompts(tmp_path / "p.parquet", [row])
    assert cases.command(path, tmp_path / "run", **ONE_STEP) == 0
    said = capsys.readouterr().out
    assert said.count("sets nothing") == len(meant)
    for column, setting in meant.items():
        assert f"the column {column} sets nothing: did you mean {setting}?" in said
        assert f"prompts.columns.{setting}={column}" in said
    assert ledger_of(tmp_path / "run", "source_neg_prompt", "negative_prompt") == [("2", "")]


@pytest.mark.parametrize(
    "row",
    [
        {
            **{"Negative Prompt": "blurry", "Seed": "7", "CFG scale": 3.5, "Steps": 3},
            **{"sampler_name": "Euler", "Width": 64},
        },
        {
            **{"negative-prompt": "blurry", "seed": 7.0, "cfg": "3.5", "numInferenceSteps": 3},
            **{"SAMPLER": "k_euler", "width ": "64"},
        },
    ],
)
def test_other_writings_and_tools_names_of_a_setting_are_read(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    path = cases.write_prompts(tmp_path / "p.parquet", [{"prompt": TEXT, **row}])
    assert cases.command(path, tmp_path / "run", **ONE_STEP) == 0
    names = ("negative_prompt", "seed", "guidance_scale", "num_inference_steps", "sampler")
    assert ledger_of(tmp_path / "run", *names) == [("blurry", 7, 3.5, 3, "euler")]


def test_the_users_own_names_count_and_are_kept_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": TEXT, "neg_prompt": "blurry", "steps": "one: draw", "name": "a"}]
    path = cases.write_prompts(tmp_path / "p.parquet", rows)
    named = {
        "prompts__columns": "{negative_prompt: neg_prompt, num_inference_steps: null, key: name}"
    }
    assert cases.command(path, tmp_path / "run", **ONE_STEP, **named) == 0
    found = ledger_of(tmp_path / "run", "key", "negative_prompt", "source_steps", "reason")
    assert found == [("a-0", "blurry", "one: draw", None)]
    capsys.readouterr()
    assert cases.command(path, tmp_path / "run", **ONE_STEP) == 2
    assert "prompts.columns.negative_prompt: was" in capsys.readouterr().err
    absent = {"prompts__columns": "{seed: sede}"}
    assert cases.command(path, tmp_path / "other", **ONE_STEP, **absent) == 2
    assert "prompts.columns.seed: the list has no column 'sede'" in capsys.readouterr().err
    wrong = {"prompts__columns": "{sede: seed}"}
    assert cases.command(path, tmp_path / "other", **ONE_STEP, **wrong) == 2
    assert "'sede' is no setting; allowed: key, negative_prompt" in capsys.readouterr().err


def test_rows_that_make_the_same_image_under_two_keys_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": TEXT, "key": "a"}, {"prompt": TEXT, "key": "b"}, {"prompt": "x", "key": "c"}]
    path = cases.write_prompts(tmp_path / "p.parquet", rows)
    assert cases.command(path, tmp_path / "run", **ONE_STEP) == 0
    assert "1 row(s) make an image that another row makes too" in capsys.readouterr().out
    images = {k: cases.pixels(v) for k, v in cases.image_files(tmp_path / "run").items()}
    assert np.array_equal(images["a-0"], images["b-0"])
