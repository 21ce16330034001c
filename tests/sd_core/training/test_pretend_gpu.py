"""Training on a pretend GPU: one wait a log line, and no batch is waited for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sd_core.model.text_encoder import load_text_encoder
from sd_core.training.batches import collate
from sd_core.training.checkpoint import HostMemory
from sd_core.training.config import LoopConfig, OptimizerConfig
from sd_core.training.denoiser_task import DenoiserTask
from sd_core.training.objectives import ObjectiveConfig
from sd_core.training.prefetch import feed
from sd_core.training.trainer import Trainer
from tests.pretend_gpu import pretend_gpu
from tests.sd_core.training.cases import (
    drawn,
    encoded_samples,
    held_cache,
    make_model,
    model_config,
)
from tests.sd_core.training.test_trainer import Heard


@pytest.fixture
def given_gradients(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """A pretend GPU computes no backward: every weight gets a gradient of ones instead."""

    def give(module: Any) -> None:
        def backward(loss: Any) -> None:
            assert loss.device.type == "cuda"
            for parameter in module.parameters():
                parameter.grad = torch.ones_like(parameter)

        monkeypatch.setattr(torch.autograd, "backward", backward)

    return give


@pytest.mark.parametrize(
    "options",
    [
        {
            "loop": {"gradient_accumulation": 2, "gradient_checkpointing": True},
            "objective": {"min_snr_gamma": 5.0, "offset_noise": 0.1},
        },
        {
            "prediction_type": "flow",
            "objective": {"noise_device": "gpu", "timestep_sampling": "logit_normal"},
        },
        {"prompt_embeds": False},
    ],
    ids=str,
)
def test_training_waits_for_the_gpu_once_a_log_line(
    given_gradients: Callable[[Any], None], options: dict[str, Any]
) -> None:
    plain, heard = make_model(), Heard()
    objective = ObjectiveConfig(**options.get("objective", {}))
    has_embeds = options.get("prompt_embeds", True)
    samples, cache = encoded_samples(plain, 4), held_cache(plain, prompt_embeds=has_embeds)
    if not has_embeds:
        samples = [dataclasses.replace(sample, prompt_embeds=None) for sample in samples]

    def batches() -> Any:
        for epoch in range(5):
            yield collate(drawn(samples, epoch=epoch), [cache], seed=0, objective=objective)

    kind = options.get("prediction_type", "epsilon")
    with pretend_gpu() as gpu:
        model = make_model(prediction_type=kind)
        if not has_embeds:
            encoder = load_text_encoder(model_config().text_encoder, device=gpu.device)
            model = dataclasses.replace(model, text_encoders={"text_encoder": encoder})
        task = DenoiserTask(model, objective=objective, optimizer=OptimizerConfig(), ema_decay=0.9)
        loop = LoopConfig(
            **{"steps": 5, "batch_size": 4, "log_every": 2, "ema_decay": 0.9},
            **{"checkpoint_every": 100, "sample_every": 100},
            **options.get("loop", {}),
        )
        trainer = Trainer(task, loop, device=gpu.device, events=heard)
        given_gradients(model.denoiser)
        with feed(batches(), gpu.device) as fed:
            trainer.run(fed, until=1)
            with gpu.watch() as seen:
                trainer.run(fed, until=4)
                HostMemory().hold(trainer.checkpoint())
    assert len(seen.waits) == 2, seen  # at steps 2 and 4
    assert {event.where.split(":")[0] for event in seen.waits} == {"sd_core/training/trainer.py"}
    assert [metrics.step for metrics in heard.metrics] == [1, 2, 4]
