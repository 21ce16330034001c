"""Standard normal noise of a row's own, computed on whatever device the row is on.

Philox4x32-10 in integer arithmetic gives the same bits on every device and in any company; what
makes normals of them (a logarithm, a cosine) may differ in the last bit between devices.

Sources: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; Box and Muller 1958.
"""

import math

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MASK = 0xFFFFFFFF


def draw_normals(keys: Tensor, shape: tuple[int, ...], *, stream: int) -> Tensor:
    """Noise of B rows, (B, *shape) float32.

    Args:
        keys: (B, 2) int64, each under 2**32; rows of equal keys get equal noise.
        shape: Of a row's.
        stream: Another one gives other noise of the same row.
    """
    count = math.prod(shape)
    blocks = torch.arange(-(-count // 4), device=keys.device)
    zeros = torch.zeros_like(blocks)
    words = philox4x32(torch.stack([blocks, zeros + stream, zeros, zeros]), keys)
    # In (0, 1]: of 24 bits each, which float32 holds exactly.
    uniforms = ((words >> 8) + 1).float() * 2.0**-24  # (4, B, blocks)
    radius = (-2 * uniforms[:2].log()).sqrt()
    angle = 2 * math.pi * uniforms[2:]
    normals = torch.cat([radius * angle.cos(), radius * angle.sin()])
    return normals.permute(1, 2, 0).flatten(1)[:, :count].reshape(-1, *shape)


def philox4x32(counters: Tensor, keys: Tensor) -> Tensor:
    """Random words, (4, B, N) int64 under 2**32.

    Args:
        counters: (4, N) int64, each under 2**32.
        keys: (B, 2) int64, likewise.
    """
    c0, c1, c2, c3 = (counter.expand(len(keys), -1) for counter in counters)
    k0, k1 = keys[:, :1], keys[:, 1:]
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return torch.stack([c0, c1, c2, c3])


def _multiply(words: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The high and the low 32 bits of a product of 32 by 32, by halves, as int64 is signed."""
    low = words * (factor & 0xFFFF)
    high = words * (factor >> 16)
    middle = (low >> 16) + (high & 0xFFFF)
    return (high >> 16) + (middle >> 16), (middle & 0xFFFF) << 16 | (low & 0xFFFF)
