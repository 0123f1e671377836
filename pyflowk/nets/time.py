"""How the time, or an interval of time, enters a network: layers whose gate and shift are functions of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.times import as_time

__all__ = ["TIMES", "TimeConv2d", "TimeLinear"]

TIMES = ("none", "concat", "concatsquash")


class Clock(NamedTuple):
    """Times () or (B,), and the gaps to an end of as many, or None; with what rates both change along a tangent."""

    t: Tensor
    gap: Tensor | None = None
    rate: float = 0.0
    gap_rate: float = 0.0

    @property
    def moving(self) -> bool:
        return self.rate != 0 or self.gap_rate != 0


def clock(
    t: Tensor | float, end: Tensor | float | None, x: Tensor, interval: bool, rate: float = 0.0, end_rate: float = 0.0
) -> Clock:
    """The times beside x and those of the end, if there is one; ValueError for one that a network does not hear."""
    t = as_time(t, x)
    if end is None:
        return Clock(t, None, rate)
    if not interval:
        raise ValueError("end: expected None for a network of one time (interval=True hears two), got an end")
    start, last = torch.broadcast_tensors(t, as_time(end, x))
    return Clock(start, last - start, rate, end_rate - rate)


class _Timed(nn.Module):
    """The two functions of time that a layer h -> g_t (W h) + s_t needs, for times of any shape.

    With an ``interval`` both are also functions of the gap to its end, by weights that start at zero: a gap of None or
    0 changes nothing.
    """

    def __init__(self, features: int, time: str, interval: bool = False) -> None:
        super().__init__()
        if time not in TIMES:
            raise ValueError(f"time: expected one of {', '.join(TIMES)}; got {time!r}")
        if interval and time == "none":
            raise ValueError("time: expected a layer of an interval to hear its times; got 'none'")
        self.time = time
        self.bias = nn.Parameter(torch.zeros(features))
        if time != "none":
            self.time_shift = nn.Parameter(torch.zeros(features))
        if time == "concatsquash":
            self.time_gate = nn.Parameter(torch.empty(features).uniform_(-1, 1))
            self.gate_bias = nn.Parameter(torch.empty(features).uniform_(-1, 1))
        if interval:
            self.gap_shift = nn.Parameter(torch.zeros(features))
        if interval and time == "concatsquash":
            self.gap_gate = nn.Parameter(torch.zeros(features))

    def gate_and_shift(self, t: Tensor, gap: Tensor | None = None) -> tuple[Tensor | None, Tensor]:
        """g (or None for ones) and s, (*t.shape, features)."""
        t = t.unsqueeze(-1)
        if self.time == "none":
            return None, self.bias.expand(*t.shape[:-1], -1)
        shift = self.time_shift * t
        if gap is not None:
            gap = gap.unsqueeze(-1)
            shift = shift + self.gap_shift * gap
        if self.time == "concat":
            return None, self.bias + shift
        seen = self.time_gate * t + self.gate_bias
        gate = torch.sigmoid(seen if gap is None else seen + self.gap_gate * gap)
        return gate, gate * self.bias + shift

    def _applied(self, r: Tensor, clock: Clock, v: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Gate and shift of the products W h, and what becomes of their tangents (B, K, ...)."""
        gate, shift = self.gate_and_shift(clock.t, clock.gap)
        spread = [*shift.shape, *[1] * (r.dim() - 2)]  # (B, C, 1, 1), or (C, 1, 1) for one time
        if gate is None:
            if v is not None and clock.moving:
                v = v + self._rate(clock, "shift").reshape(spread[-r.dim() + 1 :])
            return r + shift.reshape(spread), v
        if v is not None:
            v = v * (gate.reshape(spread).unsqueeze(1) if clock.t.dim() else gate.reshape(spread))
            if clock.moving:
                gate_rate = gate * (1 - gate) * self._rate(clock, "gate")
                shift_rate = gate_rate * self.bias + self._rate(clock, "shift")
                v = v + (r * gate_rate.reshape(spread) + shift_rate.reshape(spread)).unsqueeze(1)
        return r * gate.reshape(spread) + shift.reshape(spread), v

    def _rate(self, clock: Clock, what: str) -> Tensor:
        """How fast the shift, or what the gate is a sigmoid of, changes, (features,)."""
        rate = getattr(self, f"time_{what}") * clock.rate
        return rate if clock.gap is None else rate + getattr(self, f"gap_{what}") * clock.gap_rate


class TimeLinear(_Timed):
    r"""A linear layer that hears the time: "none" :math:`W h + b`, "concat" :math:`W h + b + t u`, "concatsquash"
    :math:`(W h + b)\, \sigma(w t + c) + t u`.

    (B, in_features) -> (B, out_features) at one time t () or one a row, (B,). "concat" is what appending t to h does.
    ``zero=True`` starts W and all shifts at zero. With an ``interval`` the layer hears the ``gap`` h to its end too:
    :math:`w t + w' h` and :math:`t u + h u'`, w' and u' zero at the start. Grathwohl et al., 2019, arXiv:1810.01367.
    Cost: one matrix product.

    >>> import torch
    >>> from pyflowk.nets import TimeLinear
    >>> TimeLinear(2, 3, "concatsquash")(torch.tensor(0.5), torch.zeros(4, 2)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self, in_features: int, out_features: int, time: str = "concat", zero: bool = False, interval: bool = False
    ) -> None:
        super().__init__(out_features, time, interval)
        plain = nn.Linear(in_features, out_features)
        self.weight = plain.weight
        _start(self, plain.bias, zero)

    def forward(self, t: Tensor, h: Tensor, gap: Tensor | None = None) -> Tensor:
        return self._applied(F.linear(h, self.weight), Clock(t, gap))[0]


class TimeConv2d(_Timed):
    """A convolution that hears the time as :class:`TimeLinear` does, one gate and one shift a channel.

    (B, in_channels, H, W) -> (B, out_channels, H, W): ``kernel_size`` is odd, padding keeps the size. Cost: one
    convolution.

    >>> import torch
    >>> from pyflowk.nets import TimeConv2d
    >>> TimeConv2d(2, 3, 3, "concat")(torch.tensor(0.5), torch.zeros(4, 2, 5, 5)).shape
    torch.Size([4, 3, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        time: str = "concat",
        zero: bool = False,
        interval: bool = False,
    ) -> None:
        super().__init__(out_channels, time, interval)
        plain = nn.Conv2d(in_channels, out_channels, kernel_size)
        self.weight = plain.weight
        assert plain.bias is not None
        _start(self, plain.bias, zero)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        return self.with_tangents(Clock(t), h)[0]

    def with_tangents(self, clock: Clock, h: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The layer, and its tangents for those v (B, K, C, H, W) of h."""
        padding = self.weight.shape[-1] // 2
        if v is not None:
            v = F.conv2d(v.flatten(0, 1), self.weight, padding=padding).unflatten(0, v.shape[:2])
        return self._applied(F.conv2d(h, self.weight, padding=padding), clock, v)


def _start(layer: TimeLinear | TimeConv2d, bias: Tensor, zero: bool) -> None:
    with torch.no_grad():
        if zero:
            layer.weight.zero_()
        else:
            layer.bias.copy_(bias)
            if layer.time != "none":
                layer.time_shift.uniform_(-1, 1).mul_(layer.bias.abs().max())
