"""Self-attention of tokens: torch's fused one, and our own where tangents are asked for."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..ops.modes import forward_or_functional
from .dual import Dual, affine, rms_norm

__all__ = ["Past", "SelfAttention", "attention", "heads_of", "turned", "zero_"]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def attention(q: Dual, k: Dual, v: Dual, causal: bool = False, seen: Tensor | None = None) -> Dual:
    r""":math:`P v`, with :math:`P = \mathrm{softmax}(q k^T / \sqrt d)`, of q, k, v (B, heads, T, d), sums in float32.

    ``causal``: queries, of which there may be fewer than keys, are the last of the tokens, and see none behind them.
    ``seen`` (B, T) are the keys that there are, where rows end early, or (B or 1, T, T) those that each query sees:
    without tangents.

    torch's fused attention has no forward derivative, and no second one: for tangents, and under forward-mode AD and
    torch.func, :func:`pyflowk.ops.attention` stands in for it.
    """
    if seen is not None:
        return Dual(_among(q.value, k.value, v.value, seen[:, None] if seen.dim() == 3 else seen[:, None, None]))
    if q.tangents is not None:
        tangents = q.tangents, k.tangents, v.tangents
        return Dual(*ops.attention_with_tangents(q.value, k.value, v.value, *tangents, causal=causal))
    if forward_or_functional():
        return Dual(ops.attention(q.value, k.value, v.value, causal=causal))
    hidden = _hidden(q.value, k.value) if causal else None
    whole = hidden is not None and hidden.shape[0] == hidden.shape[1]  # of which the fused one needs no mask
    seen = None if hidden is None or whole else ~hidden
    return Dual(F.scaled_dot_product_attention(q.value, k.value, v.value, seen, is_causal=whole))


def _among(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attention to the keys that are seen, (B, 1, 1 or T, T); to all in a row without any, which nobody is to read."""
    seen = seen | ~seen.any(-1, keepdim=True)
    if not forward_or_functional():
        return F.scaled_dot_product_attention(q, k, v, seen)
    logits = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
    return logits.softmax(-1) @ v


def _hidden(q: Tensor, k: Tensor) -> Tensor | None:
    """Which keys are behind which queries (Tq, Tk); None where none is."""
    queries, keys = q.shape[-2], k.shape[-2]
    if queries == 1:
        return None
    return torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(1 + keys - queries)


class Past:
    """Keys and values of the tokens that a causal attention has seen, (B, heads, room, d) each; none of them at first.

    Where derivatives may be asked for they are put behind each other anew at every call; elsewhere they lie in place.
    """

    def __init__(self, room: int) -> None:
        self.room, self.length = room, 0
        self.pair: tuple[Dual, Dual] | None = None

    def joined(self, k: Dual, v: Dual) -> tuple[Dual, Dual]:
        """Those that there were and these behind them."""
        start, self.length = self.length, self.length + k.value.shape[2]
        if torch.is_grad_enabled() or forward_or_functional():
            if self.pair is not None:
                pairs = zip(self.pair, (k, v), strict=True)
                k, v = (Dual(torch.cat((a.value[:, :, :start], b.value), 2)) for a, b in pairs)
            self.pair = k, v
            return k, v
        if self.pair is None:
            rows, heads, _, d = k.value.shape
            self.pair = (
                Dual(k.value.new_empty(rows, heads, self.room, d)),
                Dual(v.value.new_empty(rows, heads, self.room, d)),
            )
        for held, new in zip(self.pair, (k, v), strict=True):
            held.value[:, :, start : self.length] = new.value
        k, v = (Dual(held.value[:, :, : self.length]) for held in self.pair)
        return k, v

    def back(self, tokens: int) -> None:
        """Forget the last so many tokens."""
        self.length -= tokens


class SelfAttention(nn.Module):
    r"""Attention of T tokens to each other: projections, :func:`attention` in ``heads`` heads, a projection.

    (B, T, width) -> (B, T, width). With ``qk_norm`` queries and keys are brought to a root mean square of 1 times a
    learned gain, so that no logit runs away. ``kv_heads``, a divisor of the heads, makes groups of them share keys and
    values (Ainslie et al., 2023, arXiv:2305.13245). If ``causal``, no token sees those behind it.

    ``rotation`` (cosines, sines), each (T, width / heads / 2), turns queries and keys by angles that tell the place of
    a token; the pairs that turn are i and i + width / heads / 2. Tokens may come after those of a ``past``, which keeps
    what they leave there. Logits are divided by the ``temperature``. Tokens that are not ``seen`` (B, T) are no keys,
    or those (B or 1, T, T) none of each query's.
    """

    def __init__(
        self, width: int, heads: int, qk_norm: bool = False, kv_heads: int | None = None, causal: bool = False
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if width % heads:
            raise ValueError(f"heads: expected a divisor of the width {width}, got {heads}")
        if heads % kv_heads:
            raise ValueError(f"kv_heads: expected a divisor of the {heads} heads, got {kv_heads}")
        self.heads, self.kv_heads, self.causal, d = heads, kv_heads, causal, width // heads
        self.qkv, self.out = nn.Linear(width, width + 2 * kv_heads * d), nn.Linear(width, width)
        self.q_norm, self.k_norm = (nn.RMSNorm(d, eps=1e-6) if qk_norm else None for _ in range(2))

    def forward(
        self,
        tokens: Dual,
        rotation: tuple[Tensor, Tensor] | None = None,
        past: Past | None = None,
        temperature: float = 1.0,
        seen: Tensor | None = None,
    ) -> Dual:
        qkv = affine(self.qkv, tokens)
        q, k, v = (qkv.linear(lambda h, i=i: self._split(h)[i]) for i in range(3))  # type: ignore[misc]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = rms_norm(self.q_norm, q), rms_norm(self.k_norm, k)
        if rotation is not None:
            q, k = (part.linear(lambda h: turned(h, *rotation)) for part in (q, k))
        if temperature != 1:
            q = q.linear(lambda h: h / temperature)
        if past is not None:
            k, v = past.joined(k, v)
        if self.kv_heads != self.heads:
            k, v = (part.linear(lambda h: h.repeat_interleave(self.heads // self.kv_heads, 1)) for part in (k, v))
        mixed = attention(q, k, v, self.causal, seen)
        return affine(self.out, mixed.linear(lambda h: h.transpose(1, 2).flatten(2)))

    def _split(self, h: Tensor) -> tuple[Tensor, ...]:
        """Queries (B, heads, T, d), keys and values (B, kv_heads, T, d), as views."""
        d = h.shape[-1] // (self.heads + 2 * self.kv_heads)
        return h.unflatten(-1, (-1, d)).transpose(1, 2).split((self.heads, self.kv_heads, self.kv_heads), 1)


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
