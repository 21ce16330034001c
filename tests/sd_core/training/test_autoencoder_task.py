"""An autoencoder against its discriminator: it learns, starts when told, resumes to the bit."""

import itertools

import pytest
import torch

from jobs.tiny.drawing import draw
from sd_core.model.weights import WeightsError
from sd_core.training.autoencoder_losses import (
    DiscriminatorConfig,
    adaptive_weight,
    generator_loss,
    hinge_loss,
    kl_divergence,
    pixel_loss,
)
from sd_core.training.autoencoder_task import AutoencoderLossConfig, AutoencoderTask
from sd_core.training.checkpoint import read_checkpoint, write_checkpoint
from sd_core.training.config import LoopConfig, OptimizerConfig
from sd_core.training.image_batches import DrawnImage, collate_images
from sd_core.training.perceptual import PerceptualConfig
from sd_core.training.trained_autoencoder import (
    TrainedAutoencoderConfig,
    load_trained_autoencoder,
)
from sd_core.training.trainer import Trainer
from tests.sd_core.training.test_trainer import Heard, assert_same_state

CPU = torch.device("cpu")
START = 3
SETTINGS = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
CODEBOOK = {**SETTINGS, "_class_name": "VQModel", "num_vq_embeddings": 16}


def make_task(*, settings=SETTINGS, start_step=START, weight=0.5, **losses):
    config = TrainedAutoencoderConfig(settings=settings)
    discriminator = DiscriminatorConfig(
        weight=weight, start_step=start_step, base_channels=4, num_layers=2
    )
    return AutoencoderTask(
        load_trained_autoencoder(config),
        losses=AutoencoderLossConfig(
            perceptual=PerceptualConfig(weight=0.0), discriminator=discriminator, **losses
        ),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=0, betas=(0.9, 0.98)),
        ema_decay=0.9,
        device=CPU,
    )


def make_trainer(task, *, steps=6, heard=None, **loop):
    config = LoopConfig(
        **{"steps": steps, "batch_size": 4, "precision": "fp32", "log_every": 1, **loop}
    )
    return Trainer(task, config, device=CPU, events=heard or Heard())


@pytest.fixture(scope="module")
def batches():
    def batch(epoch):
        drawn = [
            DrawnImage(
                key=f"{seed:016x}", pixels=draw(seed, width=16, height=16).image, epoch=epoch
            )
            for seed in range(4)
        ]
        gathered = collate_images(drawn, latents_shape=(4, 8, 8), seed=0, random_flip=True)
        return gathered.to(CPU)

    return [batch(epoch) for epoch in range(6)]


def modules_of(task):
    return {part.name: part.module for part in task.parts}


def test_the_generator_s_loss_is_put_together_as_the_paper_says(batches):
    task, batch = make_task(start_step=0, kl_weight=0.1), batches[0]
    modules = modules_of(task)

    found = task.losses("generator", modules, batch, step=0)

    made = modules["generator"](batch.images, batch.noise)
    likelihood = pixel_loss(made.images, batch.images, l1_weight=1.0, l2_weight=0.0)
    adversarial = generator_loss(modules["discriminator"](made.images))
    weight = adaptive_weight(likelihood.mean(), adversarial.mean(), task.autoencoder.last_layer)
    divergence = kl_divergence(made.mean, made.log_variance)
    expected = likelihood + 0.1 * divergence / (3 * 16 * 16) + 0.5 * weight * adversarial
    torch.testing.assert_close(found.losses, expected)
    assert found.metrics["adaptive_weight"] == pytest.approx(weight.item(), rel=1e-4)


def test_the_discriminator_s_loss_is_the_hinge_of_images_and_reconstructions(batches):
    task, batch = make_task(start_step=0), batches[0]
    modules = modules_of(task)

    found = task.losses("discriminator", modules, batch, step=0)
    found.losses.mean().backward()

    judge, made = modules["discriminator"], modules["generator"](batch.images, batch.noise)
    torch.testing.assert_close(found.losses, hinge_loss(judge(batch.images), judge(made.images)))
    assert all(value.grad is None for value in modules["generator"].parameters())
    assert all(value.grad is not None for value in judge.parameters())


def test_the_generator_s_turn_leaves_no_gradients_in_the_discriminator(batches):
    task = make_task(start_step=0)
    modules = modules_of(task)

    task.losses("generator", modules, batches[0], step=0).losses.mean().backward()

    assert all(value.grad is None for value in modules["discriminator"].parameters())
    assert all(value.requires_grad for value in modules["discriminator"].parameters())
    assert all(value.grad is not None for value in modules["generator"].parameters())


def test_the_discriminator_starts_at_its_step_and_is_not_listened_to_before(batches):
    heard, task = Heard(), make_task()
    kernels = [value for value in task.parts[1].module.parameters() if value.ndim == 4]
    before = [value.detach().clone() for value in kernels]
    trainer = make_trainer(task, heard=heard)

    trainer.run(iter(batches), until=START)
    untouched = [torch.equal(a, b) for a, b in zip(before, kernels, strict=True)]
    trainer.run(iter(batches[START:]))

    assert all(untouched)
    assert not any(torch.equal(a, b) for a, b in zip(before, kernels, strict=True))
    has = [
        ("generator/adaptive_weight" in one.values, "discriminator/loss" in one.values)
        for one in heard.metrics
    ]
    assert has == [(False, False)] * START + [(True, True)] * (6 - START)


def test_weight_0_leaves_the_discriminator_out():
    assert [part.name for part in make_task(weight=0.0).parts] == ["generator"]


@pytest.mark.parametrize("settings", [SETTINGS, CODEBOOK], ids=["kl", "vq"])
def test_the_loss_falls(batches, settings):
    heard = Heard()
    trainer = make_trainer(
        make_task(settings=settings, weight=0.0), steps=30, heard=heard, log_every=5
    )

    trainer.run(itertools.cycle(batches[:1]))

    losses = [one.values["loss"] for one in heard.metrics]
    assert losses[-1] < 0.7 * losses[0]


def test_gradients_reach_the_encoder_and_the_codebook_through_the_codes(batches):
    task = make_task(settings=CODEBOOK, weight=0.0)
    modules = modules_of(task)

    found = task.losses("generator", modules, batches[0], step=0)
    found.losses.mean().backward()

    inner = modules["generator"].autoencoder
    assert inner.encoder.conv_in.weight.grad.abs().sum() > 0
    assert inner.quantize.embedding.weight.grad.abs().sum() > 0
    images = inner.decode(inner.encode(batches[0].images).latents).sample
    torch.testing.assert_close(modules["generator"](batches[0].images).images, images)


@pytest.mark.parametrize(
    ("stop", "settings", "loop"),
    [
        (1, SETTINGS, {"gradient_accumulation": 2, "gradient_checkpointing": True}),
        (START, SETTINGS, {"channels_last": True}),
        (START + 1, SETTINGS, {"channels_last": True, "precision": "bf16"}),
        (START + 1, CODEBOOK, {"channels_last": True}),
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(
    batches, tmp_path, stop, settings, loop
):
    whole = make_trainer(make_task(settings=settings), **loop)
    whole.run(iter(batches))

    first = make_trainer(make_task(settings=settings), **loop)
    first.run(iter(batches), until=stop)
    write_checkpoint(first.checkpoint(), tmp_path)
    second = make_trainer(make_task(settings=settings), **loop)
    second.resume(read_checkpoint(tmp_path))
    second.run(iter(batches[stop:]))

    assert_same_state(whole, second)


def test_gradient_checkpointing_changes_no_result(batches):
    plain, other = make_task(start_step=0), make_task(start_step=0)
    make_trainer(plain).run(iter(batches), until=2)
    make_trainer(other, gradient_checkpointing=True).run(iter(batches), until=2)

    for name, value in plain.autoencoder.state_dict().items():
        torch.testing.assert_close(value, other.autoencoder.state_dict()[name])


def test_gradient_checkpointing_of_a_codebook_is_refused_by_name():
    with pytest.raises(WeightsError, match=r"loop\.gradient_checkpointing: .* VQModel"):
        make_trainer(make_task(settings=CODEBOOK), gradient_checkpointing=True)


def test_half_precision_trains_in_float32_weights(batches):
    task, heard = make_task(start_step=0), Heard()

    make_trainer(task, heard=heard, precision="bf16").run(iter(batches), until=2)

    assert all(value.dtype == torch.float32 for value in task.autoencoder.parameters())
    assert all(torch.isfinite(value).all() for value in task.autoencoder.parameters())


def test_a_flip_follows_from_the_row_and_the_epoch(batches):
    plain = torch.from_numpy(draw(0, width=16, height=16).image).permute(2, 0, 1) / 127.5 - 1

    seen = {
        "flipped" if torch.equal(one.images[0], plain.flip(-1)) else "plain"
        for one in batches
        if torch.equal(one.images[0], plain.flip(-1)) or torch.equal(one.images[0], plain)
    }

    assert seen == {"flipped", "plain"}
    assert not torch.equal(batches[0].noise, batches[1].noise)
