"""Self-attention of tokens: torch's fused one, and its formula where tangents are asked for."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.modes import forward_or_functional
from .dual import Dual, affine, rms_norm

__all__ = ["SelfAttention", "attention", "heads_of", "turned", "zero_"]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def attention(q: Dual, k: Dual, v: Dual) -> Dual:
    r""":math:`P v`, with :math:`P = \mathrm{softmax}(q k^T / \sqrt d)`, of q, k, v (B, heads, T, d), sums in float32.

    Tangents are :math:`[P \circ (dS - \mathrm{rowsum}(P \circ dS))] v + P\, dv` with
    :math:`dS = (dq\, k^T + q\, dk^T) / \sqrt d`. torch's fused attention has no forward derivative, and no second one:
    for tangents, and under forward-mode AD and torch.func, the formula stands in for it, whose memory grows with T^2.
    """
    if q.tangents is None and not forward_or_functional():
        return Dual(F.scaled_dot_product_attention(q.value, k.value, v.value))
    scale, dtype = q.value.shape[-1] ** -0.5, v.value.dtype
    scores = (q.value @ k.value.mT) * scale
    shares = torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32))
    value = shares.to(dtype) @ v.value
    if q.tangents is None or k.tangents is None or v.tangents is None:
        return Dual(value)
    shares = shares.unsqueeze(1)
    slopes = shares * ((q.tangents @ k.value.unsqueeze(1).mT + q.value.unsqueeze(1) @ k.tangents.mT) * scale)
    slopes = slopes - shares * slopes.sum(-1, keepdim=True)
    return Dual(value, slopes.to(dtype) @ v.value.unsqueeze(1) + shares.to(dtype) @ v.tangents)


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
        self.q_norm, self.k_norm = (nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else None for _ in range(2))

    def forward(self, tokens: Dual, rotation: tuple[Tensor, Tensor] | None = None) -> Dual:
        qkv = affine(self.qkv, tokens)
        q, k, v = (qkv.linear(lambda h, i=i: self._split(h)[i]) for i in range(3))  # type: ignore[misc]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = rms_norm(self.q_norm, q), rms_norm(self.k_norm, k)
        if rotation is not None:
            q, k = (part.linear(lambda h: turned(h, *rotation)) for part in (q, k))
        return affine(self.out, attention(q, k, v).linear(lambda h: h.transpose(1, 2).flatten(2)))

    def _split(self, h: Tensor) -> Tensor:
        """Queries, keys and values (3, B, heads, T, d), as a view."""
        return h.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)


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
