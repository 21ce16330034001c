"""How much of a device's speed a training uses: matrix and convolution work over its peak."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sd_core.model.denoiser import predict
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.text_conditioning import zero_conditioning

_SIDE = {"cpu": 1024, "cuda": 8192}
_REPEATS = 10


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations (2 a multiply-add) of matrix products and convolutions in `work`,
    which is called once, without gradients."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second that the device reaches in a product of square matrices."""
    side = _SIDE.get(device.type, 2048)
    a = torch.randn(side, side, device=device).to(dtype)  # of ones a GPU reads 12% high
    torch.mm(a, a)
    best = float("inf")
    for _ in range(_REPEATS):
        _wait(device)
        started = time.perf_counter()
        torch.mm(a, a)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return float(2 * side**3 / best)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forward_once(model: LatentDiffusion) -> Tensor:
    """One forward pass of the denoiser over one sample of zeros."""
    device = next(model.denoiser.parameters()).device
    latents = torch.zeros(1, *model.latents_shape, device=device)
    timesteps = torch.zeros(1, device=device, dtype=torch.long)
    return predict(model.denoiser, latents, timesteps, zero_conditioning(model))
