"""jobs/train.py: resumed to the bit, the same on one worker and two, loud on bad input."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import train
from pipelines.engine import sight as engine_sight
from pipelines.run.sight import SIGHT_FILE, JobSight, TrainingSight, write_sight
from pipelines.run.store import RunStore
from pipelines.training.job import load_train_config
from sd_core.cache.formats import open_shard_writer
from tests.contracts.training_cases import (
    ROOT,
    losses,
    make_cache,
    run,
    weights_digests,
    write_config,
)
from tests.sd_core.training.cases import encoded_samples, make_model, spec_of


@pytest.fixture
def unharmed(unharmed_training: Path) -> Path:
    return unharmed_training


def test_the_result_is_a_diffusers_folder_with_its_card(unharmed: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(unharmed / "model", safety_checker=None)
    card = (unharmed / "model" / "README.md").read_text()
    result = json.loads((unharmed / "result.json").read_text())

    assert pipeline.unet.config["block_out_channels"] == [8, 16]
    assert "20 steps of 8 samples" in card
    assert result["data"][0]["sha256"][:16] in card
    assert result["data"][0]["rows"] == 24
    assert len(losses(unharmed)) == 20


def test_a_finished_training_repeated_does_nothing_and_says_so(
    latents: Path, unharmed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights_digests(unharmed)

    assert run(unharmed.parent, latents) == 0

    assert "nothing to do" in capsys.readouterr().out
    assert weights_digests(unharmed) == before


def test_a_constant_rate_goes_on_to_more_steps_as_if_asked_for_at_once(
    latents: Path, tmp_path: Path
) -> None:
    constant = {"optimizer__schedule": "constant", "loop__checkpoint_every": 100}
    (tmp_path / "once").mkdir()
    assert run(tmp_path / "once", latents, loop__steps=6, **constant) == 0

    (tmp_path / "twice").mkdir()
    assert run(tmp_path / "twice", latents, loop__steps=4, **constant) == 0
    assert run(tmp_path / "twice", latents, loop__steps=6, **constant) == 0

    result = json.loads((tmp_path / "twice/out/result.json").read_text())
    assert result["step"] == 6
    assert weights_digests(tmp_path / "twice/out") == weights_digests(tmp_path / "once/out")


def test_only_the_last_checkpoints_are_kept(unharmed: Path) -> None:
    assert sorted(path.name for path in (unharmed / "checkpoints").iterdir()) == [
        "current.json",
        "step-00000016",
        "step-00000020",
    ]


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bits(
    latents: Path, unharmed: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.yaml", latents, tmp_path / "out")
    command = [sys.executable, str(ROOT / "jobs/train.py"), "--config", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    victim_step = random.SystemRandom().randint(5, 18)
    metrics = tmp_path / "out/metrics.jsonl"
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if metrics.exists() and metrics.read_text().count("\n") >= victim_step:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out/result.json").exists()

    assert train.main(["--config", str(config)]) == 0

    assert weights_digests(tmp_path / "out") == weights_digests(unharmed)
    assert losses(tmp_path / "out") == losses(unharmed)


@pytest.mark.ray
@pytest.mark.slow
def test_one_worker_and_two_see_the_same_samples_and_agree_on_the_loss(
    ray_cluster: None,
    latents: Path,
    unharmed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[TrainingSight] = []

    def written(store: RunStore, sight: JobSight) -> None:
        if sight.training is not None:
            seen.append(sight.training)
        write_sight(store, sight)

    monkeypatch.setattr(engine_sight, "_WRITE_EVERY_S", 0.05)
    monkeypatch.setattr(engine_sight, "write_sight", written)
    code = run(
        tmp_path,
        latents,
        engine__runner="ray",
        engine__num_workers=2,
        engine__use_gpu=False,
    )

    assert code == 0
    assert losses(tmp_path / "out") == pytest.approx(losses(unharmed), rel=1e-4)
    assert [dict(sight.by_node) for sight in seen][-1:] == [{os.uname().nodename: 2}]
    assert [(sight.step, sight.steps, [*sight.losses]) for sight in seen][-1] == (20, 20, ["loss"])
    assert not (tmp_path / "out" / SIGHT_FILE).exists()


@pytest.mark.ray
@pytest.mark.slow
def test_a_failure_in_a_worker_reaches_the_user_as_it_was(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = make_cache(tmp_path / "run")
    _spoil(latents, value=np.float16("nan"))

    code = run(tmp_path, latents, engine__runner="ray", engine__use_gpu=False)

    assert code == 1
    assert "0000000000000003" in capsys.readouterr().err


def test_a_nan_in_the_cache_is_named_by_its_key_and_nothing_is_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = make_cache(tmp_path / "run")
    _spoil(latents, value=np.float16("nan"))

    assert run(tmp_path, latents) == 1

    assert "0000000000000003" in capsys.readouterr().err
    assert not (tmp_path / "out/result.json").exists()
    assert not (tmp_path / "out/model").exists()


def test_a_flipped_bit_is_found_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = make_cache(tmp_path / "run")
    shard = sorted(latents.glob("*.tar"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))

    assert run(tmp_path, latents) == 1

    assert shard.name in capsys.readouterr().err
    assert not (tmp_path / "out/metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "no cache can be read there"),
        ("truncated", "bytes"),
        ("foreign", "scaling_factor"),
        ("no shard", "missing"),
    ],
)
def test_a_bad_cache_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, message: str
) -> None:
    latents = make_cache(tmp_path / "run")
    shard = sorted(latents.glob("*.tar"))[0]
    if damage == "missing":
        shutil.rmtree(latents)
    elif damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-700])
    elif damage == "foreign":
        spec = latents / "spec.json"
        spec.write_text(spec.read_text().replace("0.75864", "0.18215"))
    else:
        shard.unlink()

    assert run(tmp_path, latents) == 2

    assert message in capsys.readouterr().err
    assert not (tmp_path / "out/checkpoints").exists()


def test_an_output_of_another_training_is_not_overwritten(
    latents: Path, unharmed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights_digests(unharmed)

    assert run(unharmed.parent, latents, optimizer__learning_rate=5e-4) == 2

    assert "optimizer.learning_rate: was 0.001, is now 0.0005" in capsys.readouterr().err
    assert weights_digests(unharmed) == before


def test_a_denoiser_that_does_not_fit_the_cache_is_refused(
    latents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.sd_core.training.cases import SETTINGS

    code = run(tmp_path, latents, model__denoiser__settings={**SETTINGS, "cross_attention_dim": 64})

    assert code == 2
    assert "text of width 64" in capsys.readouterr().err


def test_a_wrong_configuration_exits_with_2(
    latents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, latents, loop__stepz=3, optimizer__learning_rate=-1.0) == 2

    errors = capsys.readouterr().err
    assert "did you mean 'steps'" in errors
    assert "optimizer.learning_rate" in errors


def _spoil(latents: Path, *, value: Any) -> None:
    """Put a value that is not finite into row 3, as a foreign program might write it."""
    import hashlib

    import pyarrow.parquet as pq

    model = make_model()
    samples = encoded_samples(model, 24)[:12]
    path = sorted(latents.glob("*.tar"))[0]
    with open_shard_writer(path, spec_of(model)) as writer:
        for sample in samples:
            writer.write(sample)
    good = samples[3].raw_latents[0, 0, :1].tobytes()
    content = path.read_bytes()
    where = content.index(samples[3].raw_latents.tobytes())
    assert content[where : where + 2] == good
    content = content[:where] + value.tobytes() + content[where + 2 :]
    path.write_bytes(content)
    rows = pq.read_table(latents / "index.parquet").to_pylist()
    rows[0]["sha256"] = hashlib.sha256(content).hexdigest()
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows), latents / "index.parquet")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/train").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_shipped_training_configuration_is_valid(path: Path) -> None:
    config = load_train_config(path, overrides=[])

    assert config.data
    assert config.loop.steps > 0


def test_a_run_stands_for_its_cache(latents: Path, unharmed: Path, tmp_path: Path) -> None:
    shutil.copytree(latents, tmp_path / "run/latents")
    assert run(tmp_path, tmp_path / "run") == 0
    assert weights_digests(tmp_path / "out") == weights_digests(unharmed)
