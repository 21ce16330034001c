"""The loop: resumable to the bit, equal however a batch is cut, loud where numbers break."""

import dataclasses
import itertools

import pytest
import torch

from sd_core.training.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from sd_core.training.config import LoopConfig, OptimizerConfig
from sd_core.training.denoiser_task import DenoiserTask
from sd_core.training.finite_watch import NonFiniteLossError
from sd_core.training.objectives import ObjectiveConfig
from sd_core.training.optimizer import learning_rate_at
from sd_core.training.prefetch import prefetch
from sd_core.training.trainer import Trainer
from tests.sd_core.training.cases import collated, drawn, encoded_samples, held_cache, make_model

OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=2, schedule="cosine")


class Heard:
    """Keeps what the trainer tells."""

    def __init__(self):
        self.metrics, self.checkpoints, self.samples = [], [], []

    def on_metrics(self, metrics):
        self.metrics.append(metrics)

    def on_checkpoint(self, step, trainer):
        self.checkpoints.append(step)

    def on_samples(self, step, trainer):
        self.samples.append(step)


@pytest.fixture(scope="module")
def batches():
    model = make_model()
    samples, cache = encoded_samples(model, 4), held_cache(model)
    return [
        collated(drawn(samples, epoch=epoch), [cache], seed=0, objective=ObjectiveConfig())
        for epoch in range(8)
    ]


def make_trainer(heard=None, *, steps=8, recipe=None, optimizer=OPTIMIZER, dropout=0.0, **loop):
    model = make_model()
    for module in model.denoiser.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    config = LoopConfig(
        **{"steps": steps, "batch_size": 4, "precision": "fp32", "ema_decay": 0.9, **loop}
    )
    task = DenoiserTask(
        model, objective=ObjectiveConfig(), optimizer=optimizer, ema_decay=config.ema_decay
    )
    trainer = Trainer(
        task, config, device=torch.device("cpu"), events=heard or Heard(), recipe=recipe
    )
    return trainer, model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"channels_last": True},
        {"channels_last": True, "gradient_checkpointing": True, "ema_decay": None},
        {"channels_last": True, "gradient_accumulation": 2, "precision": "bf16", "dropout": 0.1},
        {"gradient_accumulation": 4, "gradient_checkpointing": True, "dropout": 0.1},
        {"optimizer": OptimizerConfig(learning_rate=1e-3, warmup_steps=3), "precision": "bf16"},
    ],
    ids=str,
)
def test_two_and_two_steps_equal_four_bit_for_bit(batches, tmp_path, options):
    whole, _ = make_trainer(**options)
    whole.run(iter(batches), until=4)

    first, _ = make_trainer(**options)
    first.run(iter(batches), until=2)
    write_checkpoint(first.checkpoint(), tmp_path)
    torch.manual_seed(1)  # another process begins elsewhere
    second, _ = make_trainer(**options)
    second.resume(read_checkpoint(tmp_path))
    second.run(iter(batches[2:]), until=4)

    assert_same_state(whole, second)


def assert_same_state(one, other):
    """Weights, averages and moments, to the bit."""
    expected, found = one.checkpoint().tensors, other.checkpoint().tensors
    assert expected.keys() == found.keys()
    for part, tensors in expected.items():
        assert tensors.keys() == found[part].keys()
        for name, value in tensors.items():
            assert torch.equal(value, found[part][name]), f"{part}: {name}"


def test_moments_come_back_in_the_layout_of_their_parameters(batches, tmp_path):
    trainer, _ = make_trainer(channels_last=True)
    trainer.run(iter(batches), until=1)
    write_checkpoint(trainer.checkpoint(), tmp_path)
    resumed, model = make_trainer(channels_last=True)
    resumed.resume(read_checkpoint(tmp_path))

    optimizer = resumed._parts["denoiser"].optimizer
    for parameter in model.denoiser.parameters():
        assert optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()


def test_the_loss_falls(batches):
    heard = Heard()
    trainer, _ = make_trainer(heard, steps=60, log_every=10)

    trainer.run(itertools.cycle(batches[:1]))

    losses = [metrics.values["loss"] for metrics in heard.metrics]
    assert losses[-1] < 0.8 * losses[0]


def test_accumulated_gradients_are_those_of_the_whole_batch(batches):
    whole, whole_model = make_trainer()
    whole.run(iter(batches), until=2)
    cut, cut_model = make_trainer(gradient_accumulation=4)
    cut.run(iter(batches), until=2)

    for name, value in whole_model.denoiser.state_dict().items():
        torch.testing.assert_close(
            value, cut_model.denoiser.state_dict()[name], rtol=1e-3, atol=3e-4
        )


def test_gradient_checkpointing_and_channels_last_change_no_result(batches):
    plain, plain_model = make_trainer()
    plain.run(iter(batches), until=2)
    other, other_model = make_trainer(gradient_checkpointing=True, channels_last=True)
    other.run(iter(batches), until=2)

    for name, value in plain_model.denoiser.state_dict().items():
        torch.testing.assert_close(
            value, other_model.denoiser.state_dict()[name], rtol=1e-3, atol=3e-4
        )


def test_bf16_trains_in_float32_weights(batches):
    trainer, model = make_trainer(precision="bf16")

    trainer.run(iter(batches), until=2)

    assert all(value.dtype == torch.float32 for value in model.denoiser.parameters())
    assert all(torch.isfinite(value).all() for value in model.denoiser.parameters())


def test_a_loss_that_is_not_finite_names_its_rows_and_leaves_the_weights(batches):
    latents = batches[0].latents.clone()
    latents[2, 0, 0, 0] = float("nan")
    trainer, model = make_trainer()
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}

    with pytest.raises(NonFiniteLossError, match=batches[0].keys[2]) as caught:
        trainer.run(iter([dataclasses.replace(batches[0], latents=latents)]))

    assert batches[0].keys[1] not in str(caught.value)
    for name, value in model.denoiser.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_checkpoint_of_another_recipe_is_refused(batches):
    trainer, _ = make_trainer(recipe={"fingerprint": "a"})
    other, _ = make_trainer(recipe={"fingerprint": "b"})

    with pytest.raises(CheckpointError, match="'a' in the checkpoint, 'b' now"):
        other.resume(trainer.checkpoint())


def test_a_checkpoint_of_another_architecture_is_refused(batches):
    trainer, _ = make_trainer()
    trainer.run(iter(batches), until=1)
    checkpoint = trainer.checkpoint()
    tensors = {name: dict(found) for name, found in checkpoint.tensors.items()}
    tensors["denoiser"]["conv_in.weight"] = torch.zeros(3)
    other, _ = make_trainer()

    with pytest.raises(CheckpointError, match=r"(?s)another architecture.*conv_in\.weight"):
        other.resume(dataclasses.replace(checkpoint, tensors=tensors))


def test_a_torn_checkpoint_is_refused(batches, tmp_path):
    trainer, _ = make_trainer()
    trainer.run(iter(batches), until=1)
    write_checkpoint(trainer.checkpoint(), tmp_path)
    path = tmp_path / "denoiser_ema.safetensors"
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        read_checkpoint(tmp_path)


def test_the_first_worker_is_told_at_every_due_step_and_at_the_last(batches):
    heard = Heard()
    trainer, _ = make_trainer(heard, steps=5, log_every=2, checkpoint_every=3, sample_every=4)

    trainer.run(iter(batches))

    # Before each checkpoint too, so that a resumed training says the same figures.
    assert [metrics.step for metrics in heard.metrics] == [2, 3, 4, 5]
    assert heard.checkpoints == [3, 5]
    assert heard.samples == [4, 5]
    assert {"loss", "grad_norm", "learning_rate"} <= heard.metrics[0].values.keys()


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    rates = [learning_rate_at(step, OPTIMIZER, steps=10) for step in range(10)]

    assert rates[:3] == pytest.approx([0.5e-3, 1e-3, 1e-3])
    assert rates[6] == pytest.approx(0.5e-3)
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.05e-3


def test_prefetched_items_keep_their_order_and_their_error():
    def items():
        yield from range(10)
        raise ValueError("the eleventh")

    found = []
    with pytest.raises(ValueError, match="the eleventh"):
        found.extend(prefetch(items(), depth=2))

    assert found == list(range(10))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_no_memory_to_say_so_ends_the_reader_too(monkeypatch):
    def put(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("queue.Queue.put", put)
    monkeypatch.setattr("sd_core.training.prefetch._LOOK_S", 0.01)

    with pytest.raises(MemoryError, match="ended without a word"):
        next(prefetch(iter([1])))
