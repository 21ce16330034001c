"""Scoring on a pretend GPU: what of it waits for the device."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.run.committed import Committed
from pipelines.run.store import RunStore
from pipelines.steps.model_worker import recorded_models
from pipelines.steps.score import HeadConfig, ScoreConfig, ScoreStep
from pipelines.steps.score.config import ScoreClipConfig
from pipelines.steps.step import Resources
from tests import model_cases, run_cases
from tests.pretend_gpu import pretend_gpu


def step_in(tmp_path: Path) -> ScoreStep:
    nsfw = {
        "norm.mean": torch.zeros(16),
        "norm.variance": torch.ones(16),
        "dense.weight": torch.randn(1, 16),
        "dense.bias": torch.randn(1),
    }
    save_file(nsfw, tmp_path / "nsfw.safetensors")
    config = ScoreConfig(
        clip=ScoreClipConfig(name=str(model_cases.clip_folder(tmp_path / "clip"))),
        aesthetic_v1=HeadConfig(
            weights=str(model_cases.aesthetic_head(tmp_path / "h.safetensors"))
        ),
        nsfw=HeadConfig(weights=str(tmp_path / "nsfw.safetensors")),
        embeddings=True,
        batch_size=4,
    )
    store = RunStore(str(tmp_path / "run"))
    rows = run_cases.rows(15, size=48)
    run_cases.commit_download(store, 0, rows, tmp_path)
    return ScoreStep(
        store,
        fingerprint="f" * 16,
        images=Committed(store, "download", "d" * 16),
        config=config,
        torch_threads=1,
        resources=Resources(num_gpus=1),
    )


def test_a_batch_of_scores_is_waited_for_once_and_comes_in_one_go(tmp_path: Path) -> None:
    step = step_in(tmp_path)
    images = step.rows_in(0)
    with pretend_gpu() as gpu:
        step.open()
        with gpu.watch() as seen, step.begin(0) as work:  # no thread: the device takes one
            for item in work.read():
                work.write(work.compute(item))
            manifest = work.commit()
    assert manifest.kept == images == 12
    assert len(seen.waits) <= 3, seen  # batches
    # The scores of four scorers; pixels, two arrays of their grid, the places of their captions;
    # token ids of three batches of captions.
    assert len(seen.copies("to_host")) <= 3 * 4, seen
    assert len(seen.copies("to_device")) <= 3 * 4 + 3, seen


def test_a_run_begun_before_goes_on_in_the_format_it_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = step_in(tmp_path)
    with pretend_gpu():
        step.open()  # as `auto` was on every GPU
        emulated = lambda including_emulation=True: including_emulation  # noqa: E731
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", emulated)
        step.close()
        step.open()
        assert recorded_models(step.made)["dtype"] == "torch.bfloat16"
        step.close()
        step.fingerprint = "b" * 16  # a run that begins now
        step.open()
        assert recorded_models(step.made)["dtype"] == "torch.float32"
