"""Batches: scaled once, random by key alone, and equal to encoding online."""

import dataclasses

import numpy as np
import pytest
import torch

from sd_core.model.autoencoder import encode_images
from sd_core.model.text_encoder import encode_captions
from sd_core.training.batches import row_generator
from sd_core.training.config import OptimizerConfig
from sd_core.training.denoiser_task import DenoiserTask
from sd_core.training.objectives import ObjectiveConfig
from tests.sd_core.training.cases import (
    collated,
    drawn,
    encoded_samples,
    held_cache,
    make_model,
    pictures,
)

PLAIN = ObjectiveConfig(caption_dropout=0.0)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def samples(model):
    return encoded_samples(model, 6)


def test_latents_are_a_posterior_sample_scaled_exactly_once(model, samples):
    cache = held_cache(model)

    batch = collated(drawn(samples), [cache], seed=0, objective=PLAIN)

    moments = torch.from_numpy(samples[0].raw_latents.astype(np.float32))
    mean, log_variance = moments.chunk(2)
    rng = row_generator(samples[0].key, seed=0, epoch=0)
    rng.random(2)
    noise = torch.from_numpy(rng.standard_normal((4, 16, 16), dtype=np.float32))
    posterior = torch.from_numpy(rng.standard_normal((4, 16, 16), dtype=np.float32))
    raw = mean + (0.5 * log_variance).exp() * posterior
    torch.testing.assert_close(batch.noise[0], noise)
    torch.testing.assert_close(batch.latents[0], raw * 0.75864)


def test_a_row_is_the_same_whatever_its_batch(model, samples):
    objective = ObjectiveConfig(caption_dropout=0.5, offset_noise=0.1)
    cache = held_cache(model)

    whole = collated(drawn(samples), [cache], seed=3, objective=objective)
    alone = collated(drawn(samples[4:5]), [cache], seed=3, objective=objective)

    for name in ("latents", "noise", "uniforms", "input_ids", "prompt_embeds"):
        assert torch.equal(getattr(whole, name)[4], getattr(alone, name)[0]), name


def test_another_epoch_and_another_seed_draw_other_noise(model, samples):
    cache = held_cache(model)

    first = collated(drawn(samples), [cache], seed=0, objective=PLAIN)
    later = collated(drawn(samples, epoch=1), [cache], seed=0, objective=PLAIN)
    other = collated(drawn(samples), [cache], seed=1, objective=PLAIN)

    assert not torch.equal(first.noise, later.noise)
    assert not torch.equal(first.noise, other.noise)


def test_dropped_captions_are_the_encoded_empty_caption(model, samples):
    cache = held_cache(model)

    batch = collated(
        drawn(samples), [cache], seed=0, objective=ObjectiveConfig(caption_dropout=1.0)
    )

    empty = encode_captions(model.text_encoder, [""])
    assert torch.equal(batch.input_ids, empty.input_ids.long().expand(6, -1))
    assert torch.equal(batch.prompt_embeds, empty.prompt_embeds.expand(6, -1, -1))


def test_captions_are_dropped_at_the_configured_share(model, samples):
    cache = held_cache(model)
    many = [dataclasses.replace(samples[0], key=f"{key:016x}") for key in range(2000)]

    batch = collated(drawn(many), [cache], seed=0, objective=ObjectiveConfig(caption_dropout=0.1))

    empty = torch.from_numpy(cache.empty_caption.input_ids.astype(np.int64))
    share = (batch.input_ids == empty).all(dim=1).float().mean().item()
    assert share == pytest.approx(0.1, abs=0.02)


def test_token_ids_alone_are_encoded_on_the_fly_to_the_same_embeddings(model, samples):
    with_embeds = collated(drawn(samples), [held_cache(model)], seed=0, objective=PLAIN)
    ids_alone = [dataclasses.replace(sample, prompt_embeds=None) for sample in samples]
    cache = held_cache(model, prompt_embeds=False)
    without = collated(drawn(ids_alone), [cache], seed=0, objective=PLAIN)
    assert without.prompt_embeds is None

    stored, encoded = _losses(model, with_embeds), _losses(model, without)

    torch.testing.assert_close(stored, encoded, rtol=1e-3, atol=1e-4)  # float16 storage


def test_a_step_from_the_cache_equals_one_from_the_images():
    """Loss and gradients, to a relative 1e-5, with the latents in the cache's dtype."""
    model = make_model()
    batch = collated(drawn(encoded_samples(model, 6)), [held_cache(model)], seed=0, objective=PLAIN)

    cached_loss, cached = _step(model, batch)
    online_loss, online = _step(model, _from_images(model, batch, rounded=True))
    twice = dataclasses.replace(batch, latents=batch.latents * model.autoencoder.scaling_factor)
    never = dataclasses.replace(batch, latents=batch.latents / model.autoencoder.scaling_factor)

    assert online_loss == pytest.approx(cached_loss, rel=1e-5)
    assert (cached - online).norm() / online.norm() < 1e-5
    for wrong in (twice, never):  # the test would see either mistake
        loss, gradients = _step(model, wrong)
        assert loss != pytest.approx(online_loss, rel=1e-4)
        assert (gradients - online).norm() / online.norm() > 1e-2


def test_storing_float16_costs_less_than_a_thousandth_of_the_gradient():
    model = make_model()
    batch = collated(drawn(encoded_samples(model, 6)), [held_cache(model)], seed=0, objective=PLAIN)

    _, cached = _step(model, batch)
    _, exact = _step(model, _from_images(model, batch, rounded=False))

    error = ((cached - exact).norm() / exact.norm()).item()
    print(f"relative error of the gradient by float16 storage: {error:.1e}")
    assert 0 < error < 1e-3


def _from_images(model, batch, *, rounded):
    """The batch that encoding the images now gives, with the same noise."""
    images, captions = pictures(len(batch.keys))
    # Clones, as tensors of inference mode have no gradients.
    moments = encode_images(model.autoencoder, images, form="moments").clone()
    embeds = encode_captions(model.text_encoder, captions).prompt_embeds.clone()
    if rounded:
        moments, embeds = moments.half().float(), embeds.half().float()
    mean, log_variance = moments.chunk(2, dim=1)
    posteriors = []
    for key in batch.keys:
        rng = row_generator(key, seed=0, epoch=0)
        rng.random(2)
        rng.standard_normal((4, 16, 16), dtype=np.float32)
        posteriors.append(torch.from_numpy(rng.standard_normal((4, 16, 16), dtype=np.float32)))
    raw = mean + (0.5 * log_variance.clamp(-30, 20)).exp() * torch.stack(posteriors)
    scaling = model.autoencoder.scaling_factor
    return dataclasses.replace(batch, latents=raw * scaling, prompt_embeds=embeds)


def _task(model):
    return DenoiserTask(model, objective=PLAIN, optimizer=OptimizerConfig(), ema_decay=None)


def _losses(model, batch):
    found = _task(model).losses("denoiser", {"denoiser": model.denoiser}, batch, step=0)
    return found.losses.detach()


def _step(model, batch):
    model.denoiser.zero_grad()
    found = _task(model).losses("denoiser", {"denoiser": model.denoiser}, batch, step=0)
    loss = found.losses.mean()
    loss.backward()
    gradients = [p.grad.flatten() for p in model.denoiser.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients).clone()
