"""The autoencoder's losses against values worked out by hand."""

import math

import pytest
import torch

from sd_core.training.autoencoder_losses import (
    DiscriminatorConfig,
    PatchDiscriminator,
    adaptive_weight,
    codebook_loss,
    generator_loss,
    hinge_loss,
    kl_divergence,
    pixel_loss,
    psnr_db,
)


def test_the_pixel_loss_is_a_mean_of_differences_of_each_image():
    images = torch.zeros(2, 3, 2, 2)
    reconstructions = torch.stack([torch.full((3, 2, 2), -0.5), torch.full((3, 2, 2), 0.2)])

    found = pixel_loss(reconstructions, images, l1_weight=1.0, l2_weight=2.0)

    assert found.tolist() == pytest.approx([0.5 + 2 * 0.25, 0.2 + 2 * 0.04])


def test_the_divergence_from_a_standard_normal_is_in_nats_summed_over_latents():
    mean = torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1).expand(2, 4, 3, 3)
    log_variance = torch.tensor([0.0, math.log(4)]).reshape(2, 1, 1, 1).expand(2, 4, 3, 3)

    found = kl_divergence(mean, log_variance)

    assert found.tolist() == pytest.approx([0.0, 36 * 0.5 * (4 + 4 - 1 - math.log(4))])


def test_codes_move_to_latents_and_latents_commit_to_codes():
    latents = torch.full((1, 2, 1, 1), 1.0, requires_grad=True)
    codes = torch.full((1, 2, 1, 1), 4.0, requires_grad=True)

    loss = codebook_loss(latents, codes, commitment_weight=0.25)
    loss.sum().backward()

    assert loss.tolist() == pytest.approx([9 * 1.25])
    assert codes.grad.flatten().tolist() == pytest.approx([3.0, 3.0])  # 2 (4 - 1) / 2
    assert latents.grad.flatten().tolist() == pytest.approx([-0.75, -0.75])


def test_the_hinge_loss_stops_at_confident_logits():
    real = torch.tensor([[2.0, 0.0], [-1.0, 0.5]]).reshape(2, 1, 1, 2)
    fake = torch.tensor([[-3.0, 0.0], [1.0, -0.5]]).reshape(2, 1, 1, 2)

    found = hinge_loss(real, fake)

    assert found.tolist() == pytest.approx([0.5 * (0.5 + 0.5), 0.5 * (1.25 + 1.25)])
    assert generator_loss(fake).tolist() == pytest.approx([1.5, -0.25])


def test_the_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer():
    layer = torch.tensor([1.0, 1.0], requires_grad=True)
    reconstruction = (layer * torch.tensor([3.0, 4.0])).sum()  # gradient of length 5
    adversarial = (layer * torch.tensor([0.0, -0.5])).sum()

    weight = adaptive_weight(reconstruction, adversarial, layer)

    assert weight.item() == pytest.approx(5 / (0.5 + 1e-4))
    assert not weight.requires_grad
    assert layer.grad is None


def test_the_adaptive_weight_is_clamped():
    layer = torch.tensor([1.0], requires_grad=True)

    assert adaptive_weight((3 * layer).sum(), (0 * layer).sum(), layer).item() == 1e4


def test_psnr_is_over_the_whole_range():
    images = torch.zeros(2, 3, 4, 4)
    reconstructions = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 5.0)])

    assert psnr_db(reconstructions, images).tolist() == pytest.approx([20.0, -20 * math.log10(0.5)])


def test_the_discriminator_is_pix2pix_s_with_patches_of_70_pixels():
    model = PatchDiscriminator(DiscriminatorConfig())
    images = torch.zeros(1, 3, 256, 256, requires_grad=True)
    logits = model(images)

    assert sum(value.numel() for value in model.parameters()) == 2_765_633
    assert logits.shape == (1, 1, 30, 30)
    # Without norms, which look at the whole image, a logit sees its patch alone.
    convolutions = [one for one in model.layers if isinstance(one, torch.nn.Conv2d)]
    torch.nn.Sequential(*convolutions)(images)[0, 0, 15, 15].backward()
    seen = images.grad.abs().sum(dim=(0, 1)) > 0
    assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (70, 70)


def test_a_discriminator_s_logits_of_an_image_depend_on_that_image_alone():
    model = PatchDiscriminator(DiscriminatorConfig(base_channels=8))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(model(images)[:1], model(images[:1]))
