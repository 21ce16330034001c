"""Encoding on a pretend GPU: what of it waits for the device."""

from pathlib import Path

import pytest
import torch

from pipelines.run.committed import Committed
from pipelines.run.store import RunStore
from pipelines.steps.encode import EncodeConfig, EncodeStep
from pipelines.steps.model_worker import recorded_models
from pipelines.steps.step import Resources
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.buckets import Bucket
from sd_core.model.clip import ClipConfig
from sd_core.model.text_encoder import TextEncoderConfig
from tests import model_cases, run_cases
from tests.pretend_gpu import pretend_gpu


def step_in(tmp_path: Path) -> EncodeStep:
    autoencoder = str(model_cases.autoencoder_folder(tmp_path / "autoencoder"))
    clip = str(model_cases.clip_folder(tmp_path / "clip"))
    config = EncodeConfig(
        autoencoder=AutoencoderConfig(model=autoencoder),
        text_encoder=TextEncoderConfig(clip=ClipConfig(name=clip)),
        batch_size=4,
    )
    store = RunStore(str(tmp_path / "run"))
    rows = run_cases.rows(15)
    run_cases.commit_download(store, 0, rows, tmp_path)
    run_cases.commit_ledger(store, 0, rows, tmp_path)
    return EncodeStep(
        store,
        fingerprint="f" * 16,
        images=Committed(store, "download", "d" * 16),
        verdicts=Committed(store, "select", "e" * 16),
        num_image_shards=1,
        config=config,
        sizes=(Bucket(width=32, height=32),),
        torch_threads=1,
        resources=Resources(num_gpus=1),
    )


def test_a_batch_of_latents_is_waited_for_once(tmp_path: Path) -> None:
    step = step_in(tmp_path)
    with pretend_gpu() as gpu:
        step.open()
        with gpu.watch() as seen, step.begin(0) as work:  # no thread: the device takes one
            for item in work.read():
                work.write(work.compute(item))
            manifest = work.commit()
    assert manifest.kept == 8
    assert len(seen.waits) <= 2, seen  # batches
    assert len(seen.copies("to_host")) == 2 * 2, seen  # latents and embeddings
    copies = seen.copies("to_device")
    assert len(copies) == 2 * 2, seen  # pixels as bytes, token ids
    assert sorted(copy.num_bytes for copy in copies)[-1] == 4 * 32 * 32 * 3


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
