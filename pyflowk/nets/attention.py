"""Self-attention of tokens: torch's fused one, and its formula where tangents are asked for."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.modes import forward_or_functional

__all__ = ["SelfAttention", "attention", "heads_of", "turned", "zero_"]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    r""":math:`\mathrm{softmax}(q k^T / \sqrt d)\, v` of q, k, v (B, heads, T, d), with the sums in float32 or better.

    torch's fused attention has no forward derivative, and no second one: under forward-mode AD and torch.func the
    formula stands in for it, whose memory grows with T squared.
    """
    if not forward_or_functional():
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return torch.softmax(scores, -1, dtype=dtype).to(v.dtype) @ v


class SelfAttention(nn.Module):
    r"""Attention of T tokens to each other: projections, :func:`attention` in ``heads`` heads, a projection.

    (B, T, width) -> (B, T, width). With ``qk_norm`` queries and keys are brought to a root mean square of 1 times a
    learned gain, so that no logit runs away. ``rotation`` (cosines, sines), each (T, width / heads / 2), turns them by
    angles that tell the place of a token; the pairs that turn are i and i + width / heads / 2.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: expected a divisor of the width {width}, got {heads}")
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = (_RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, tokens: Tensor, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = turned(q, *rotation), turned(k, *rotation)
        return self.out(attention(q, k, v).transpose(1, 2).flatten(2))


class _RMSNorm(nn.RMSNorm):
    """With gains of the input's dtype, which is another one under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def turned(q: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """q (..., T, d), its pairs i and i + d / 2 turned by angles of these cosines and sines (T, d / 2)."""
    a, b = q.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1).to(q.dtype)


def heads_of(width: int, most: int = 64) -> int:
    """How many heads of about ``most`` channels a width has: the largest number that divides it and is not above that.

    >>> heads_of(128), heads_of(32), heads_of(200)
    (2, 1, 2)
    """
    return next(heads for heads in range(max(1, width // most), 0, -1) if width % heads == 0)


def zero_(layer: Layer) -> Layer:
    """The layer, zero: the end of a residual branch, which then starts as nothing."""
    assert layer.bias is not None
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
