"""Guidance does the papers' arithmetic."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from sd_core.sampling.guidance import guide, rescale_guided


def two_predictions() -> tuple[torch.Tensor, torch.Tensor]:
    without, with_text = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return without, with_text


def test_guidance_goes_past_the_conditional_prediction() -> None:
    guided = guide(torch.full((1, 1, 1, 1), 1.0), torch.full((1, 1, 1, 1), 3.0), 7.5)
    assert guided.item() == pytest.approx(16)


def test_a_scale_of_one_is_the_conditional_prediction() -> None:
    without, with_text = two_predictions()
    assert torch.allclose(guide(without, with_text, 1.0), with_text, atol=1e-6)


def test_each_row_may_have_its_own_scale() -> None:
    without, with_text = two_predictions()
    scales = torch.tensor([1.5, 4.0, 7.5])
    together = guide(without, with_text, scales[:, None, None, None])
    for row, scale in enumerate(scales.tolist()):
        assert torch.equal(together[row], guide(without[row], with_text[row], scale))


def test_full_rescaling_restores_the_conditional_deviation() -> None:
    without, with_text = two_predictions()
    rescaled = rescale_guided(guide(without, with_text, 7.5), with_text, 1.0)
    assert torch.allclose(rescaled.std(dim=(1, 2, 3)), with_text.std(dim=(1, 2, 3)), rtol=1e-5)


def test_rescaling_is_what_diffusers_does() -> None:
    without, with_text = two_predictions()
    guided = guide(without, with_text, 7.5)
    ours = rescale_guided(guided, with_text, 0.7)
    assert torch.allclose(ours, rescale_noise_cfg(guided, with_text, 0.7), rtol=1e-6)
