"""Values and their tangents through the layers of a deep network together: every layer once, by hand.

torch's forward-mode AD takes longer, has no derivative of its fused attention, and cannot be compiled at a batch size
that varies. Without tangents every layer is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import activation_with_tangents
from ..ops.activations import ACTIVATIONS
from .field import Field
from .time import Clock, clock

__all__ = ["Dual", "DualField", "affine", "concatenated", "group_norm", "rms_norm"]


@dataclass(frozen=True)
class Dual:
    r"""Values (B, \*rest), and tangents (B, K, \*rest) of them where any are asked for."""

    value: Tensor
    tangents: Tensor | None = None

    def __add__(self, other: Dual | float) -> Dual:
        if not isinstance(other, Dual):
            return Dual(self.value + other, self.tangents)
        return Dual(self.value + other.value, _summed(self.tangents, other.tangents))

    def linear(self, f: Callable[[Tensor], Tensor]) -> Dual:
        """A linear map f of batches, whatever their size."""
        if self.tangents is None:
            return Dual(f(self.value))
        return Dual(f(self.value), f(self.tangents.flatten(0, 1)).unflatten(0, self.tangents.shape[:2]))

    def scaled(self, scale: Dual, shift: Dual | None = None) -> Dual:
        """Times a scale plus a shift, which have as many dimensions as the values."""
        value = self.value * scale.value if shift is None else self.value * scale.value + shift.value
        mine = None if self.tangents is None else self.tangents * scale.value.unsqueeze(1)
        its = None if scale.tangents is None else self.value.unsqueeze(1) * scale.tangents
        return Dual(value, _summed(mine, its, None if shift is None else shift.tangents))

    def chunk(self, chunks: int) -> list[Dual]:
        """Parts of the channels, the last dimension."""
        values = self.value.chunk(chunks, -1)
        if self.tangents is None:
            return [Dual(value) for value in values]
        return [Dual(value, tangents) for value, tangents in zip(values, self.tangents.chunk(chunks, -1), strict=True)]

    def activated(self, activation: str) -> Dual:
        """A function of every number, by its name in ``ops.activations``."""
        if self.tangents is None:
            return Dual(ACTIVATIONS[activation].value(self.value))
        return Dual(*activation_with_tangents(self.value, self.tangents, activation))


def _summed(*tangents: Tensor | None) -> Tensor | None:
    """The sum of those that there are: none is 0."""
    there = [t for t in tangents if t is not None]
    return sum(there[1:], there[0]) if there else None


class DualField(Field):
    """A field whose values and tangents go through its layers together, by ``_run``.

    One that is built for an ``interval`` takes its ``end`` too; None, as for solvers, is the time itself.
    """

    def forward(
        self, t: Tensor | float, x: Tensor, context: Tensor | None = None, end: Tensor | float | None = None
    ) -> Tensor:
        return self._run(clock(t, end, x, self.hears_end), Dual(x), context).value

    def with_tangents(
        self, t: Tensor | float, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        found = self._run(clock(t, None, x, self.hears_end), Dual(x, tangents), context)
        assert found.tangents is not None
        return found.value, found.tangents

    def derivative(
        self,
        t: Tensor | float,
        x: Tensor,
        tangent: Tensor,
        context: Tensor | None = None,
        end: Tensor | float | None = None,
        *,
        rate: float = 0.0,
        end_rate: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        times = clock(t, end, x, self.hears_end, rate, end_rate)
        found = self._run(times, Dual(x, tangent.unsqueeze(1)), context)
        assert found.tangents is not None
        return found.value, found.tangents[:, 0]

    def _run(self, clock: Clock, x: Dual, context: Tensor | None) -> Dual:
        raise NotImplementedError(f"{type(self).__name__} has no values")


def affine(layer: nn.Linear | nn.Conv2d, h: Dual) -> Dual:
    """A linear layer or a convolution: tangents go through it without the bias."""
    if h.tangents is None:
        return Dual(layer(h.value))
    v = h.tangents.flatten(0, 1)
    if isinstance(layer, nn.Linear):
        v = F.linear(v, layer.weight)
    else:
        v = F.conv2d(v, layer.weight, None, layer.stride, layer.padding)
    return Dual(layer(h.value), v.unflatten(0, h.tangents.shape[:2]))


def concatenated(a: Dual, b: Dual) -> Dual:
    """Side by side along the channels, dimension 1 of the values."""
    value = torch.cat((a.value, b.value), 1)
    if a.tangents is None or b.tangents is None:
        return Dual(value)
    return Dual(value, torch.cat((a.tangents, b.tangents), 2))


def group_norm(layer: nn.GroupNorm, h: Dual) -> Dual:
    """Groups of channels (B, C, H, W) of mean 0 and variance 1, times a gain and plus a bias a channel."""
    if h.tangents is None:
        return Dual(layer(h.value))
    groups = h.linear(lambda x: x.unflatten(1, (layer.num_groups, -1)).flatten(2))
    normal = _standardized(groups, layer.eps)
    shape, (gain, bias) = h.value.shape[1:], (Dual(p[None, :, None, None]) for p in (layer.weight, layer.bias))
    return normal.linear(lambda x: x.reshape(-1, *shape)).scaled(gain, bias)


def rms_norm(layer: nn.RMSNorm, h: Dual) -> Dual:
    """Rows of heads (B, heads, T, d) of a mean square of 1, times gains in the dtype that autocast gives the rows."""
    assert layer.weight is not None and layer.eps is not None
    gains = layer.weight.to(h.value.dtype)
    if h.tangents is None:
        return Dual(F.rms_norm(h.value, layer.normalized_shape, gains, layer.eps))
    return _standardized(h, layer.eps, centred=False).scaled(Dual(gains[None, None, None]))


def _standardized(h: Dual, eps: float, centred: bool = True) -> Dual:
    r"""y = (x - m) / s, with :math:`dy = (dx - \overline{dx} - y\, \overline{y\, dx}) / s`; not centred, without m and
    the mean of dx. In float32 or better."""
    assert h.tangents is not None
    x = h.value.to(torch.promote_types(h.value.dtype, torch.float32))
    v = h.tangents.to(x.dtype)
    if centred:
        x, v = x - x.mean(-1, keepdim=True), v - v.mean(-1, keepdim=True)
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    y = x * inverse
    beside = y.unsqueeze(1)
    v = (v - beside * (beside * v).mean(-1, keepdim=True)) * inverse.unsqueeze(1)
    return Dual(y.to(h.value.dtype), v.to(h.value.dtype))
