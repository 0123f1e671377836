"""The time as one vector that every block of a deep network hears, and the context beside it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._checks import require_counts, require_numbers
from .context import ContextBias, add_context
from .dual import Dual, affine
from .time import Clock

__all__ = ["EMBEDDINGS", "TimeEmbedding", "embedded"]

EMBEDDINGS = ("sinusoidal", "fourier")


class TimeEmbedding(nn.Module):
    r"""Waves of the time, :math:`(\cos \omega_i t, \sin \omega_i t)`, and a perceptron: what a deep network hears of t.

    Times () or (B,) -> (features,) or (B, features). Half of the ``waves`` numbers are cosines, half sines. Their
    frequencies are, i from 0 to waves / 2 - 1, "sinusoidal" :math:`\omega_i = s\, 10^{-4 i / (\mathrm{waves} / 2)}`,
    from s downwards in a row of even ratios, or "fourier" :math:`\omega_i = 2 \pi s\, q_i`, with q the quantiles of
    the size of a standard normal number; s is the ``scale``, stated because peers differ: of times from 0 to 1 SiT
    takes 1, rectified flow 999, DiT, whose times are steps up to 1000, in effect 1000. Nothing is drawn and nothing is
    kept: frequencies are made at every call, in float32 or better, whatever the dtype of the weights. One of an
    ``interval`` hears the ``gap`` to its end too, by the same waves less those of 0 and weights that start at zero: a
    gap of None or 0 changes nothing.

    Raises ValueError for an unknown kind, an odd number of waves and a scale that is no number of at least 0.
    Cost: two matrix products, once for each time. Vaswani et al., 2017, arXiv:1706.03762; Tancik et al., 2020,
    arXiv:2006.10739; the perceptron: Dhariwal, Nichol, 2021, arXiv:2105.05233.

    >>> import torch
    >>> from pyflowk.nets import TimeEmbedding
    >>> TimeEmbedding(8)(torch.tensor([0.0, 0.5])).shape
    torch.Size([2, 8])
    """

    def __init__(
        self, features: int, kind: str = "sinusoidal", scale: float = 1.0, waves: int = 256, interval: bool = False
    ) -> None:
        super().__init__()
        require_counts("TimeEmbedding", features=features, waves=waves)
        require_numbers("TimeEmbedding", scale=scale)
        if kind not in EMBEDDINGS:
            raise ValueError(f"kind: expected one of {', '.join(EMBEDDINGS)}; got {kind!r}")
        if waves % 2:
            raise ValueError(f"TimeEmbedding expects an even number of waves, got {waves}")
        self.kind, self.scale, self.waves = kind, float(scale), waves
        self.first, self.second = nn.Linear(waves, features), nn.Linear(features, features)
        if interval:
            self.gap = nn.Linear(waves, features, bias=False)
            nn.init.zeros_(self.gap.weight)

    def forward(self, t: Tensor, gap: Tensor | None = None) -> Tensor:
        return self.along(Clock(t, gap)).value

    def along(self, clock: Clock) -> Dual:
        """The vector of times (B,), and its tangent (B, 1, features) where they move, or that of one time."""
        h = affine(self.first, self._waves(clock.t, clock.rate if clock.moving else None))
        if clock.gap is not None:
            gap = self._waves(clock.gap, clock.gap_rate if clock.moving else None)
            start = self._waves(torch.zeros_like(clock.gap), None).value
            h = h + affine(self.gap, Dual(gap.value - start, gap.tangents))
        return affine(self.second, h.activated("silu"))

    def _waves(self, t: Tensor, rate: float | None) -> Dual:
        """Those of times, and their tangents where these move at a rate."""
        half = self.waves // 2
        share = torch.arange(half, dtype=t.dtype, device=t.device) / half
        if self.kind == "sinusoidal":
            rates = torch.exp(-math.log(1e4) * share)
        else:
            rates = 2 * math.pi * torch.special.ndtri((1 + share + 0.5 / half) / 2)
        rates = self.scale * rates
        angles, dtype = t.unsqueeze(-1) * rates, self.first.weight.dtype
        cos, sin = angles.cos(), angles.sin()
        waves = torch.cat((cos, sin), -1).to(dtype)
        if rate is None:
            return Dual(waves)
        rates = rate * rates
        return Dual(waves, torch.cat((-rates * sin, rates * cos), -1).unsqueeze(-2).to(dtype))

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}, scale={self.scale:g}, waves={self.waves}"


def heard(
    embedding: TimeEmbedding, bias: ContextBias | None, clock: Clock, x: Tensor, context: Tensor | None, late: bool
) -> tuple[Dual, Dual]:
    """What the first and the last blocks of a network on x hear: the same, or, ``late``, the time and its end."""
    if not late:
        both = embedded(embedding, bias, clock, x, context)
        return both, both
    end = clock if clock.gap is None else Clock(clock.t + clock.gap, None, clock.rate + clock.gap_rate)
    start = clock._replace(gap=None, gap_rate=0.0)
    return embedded(embedding, bias, start, x, context), embedded(embedding, bias, end, x, context)


def embedded(
    embedding: TimeEmbedding, bias: ContextBias | None, clock: Clock, x: Tensor, context: Tensor | None
) -> Dual:
    """What the blocks of a network on x hear: the time's vector plus the context's, (B, features), or one row for all
    where there is no context and one time."""
    if clock.t.dim() == 0:
        gap, rows = clock.gap, 1 if context is None else x.shape[0]
        one = clock._replace(t=clock.t[None], gap=None if gap is None else gap[None])
        vector = embedding.along(one)
        moved = None if vector.tangents is None else vector.tangents.expand(rows, -1, -1)
        vector = Dual(vector.value.expand(rows, -1), moved)
    else:
        vector = embedding.along(clock)
    return Dual(add_context(vector.value, bias, context), vector.tangents)
