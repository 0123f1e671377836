"""How the time enters a network: layers whose gate and shift are functions of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TIMES", "TimeConv2d", "TimeLinear"]

TIMES = ("none", "concat", "concatsquash")


class _Timed(nn.Module):
    """The two functions of time that a layer h -> g_t (W h) + s_t needs, for times of any shape."""

    def __init__(self, features: int, time: str) -> None:
        super().__init__()
        if time not in TIMES:
            raise ValueError(f"time: expected one of {', '.join(TIMES)}; got {time!r}")
        self.time = time
        self.bias = nn.Parameter(torch.zeros(features))
        if time != "none":
            self.time_shift = nn.Parameter(torch.zeros(features))
        if time == "concatsquash":
            self.time_gate = nn.Parameter(torch.empty(features).uniform_(-1, 1))
            self.gate_bias = nn.Parameter(torch.empty(features).uniform_(-1, 1))

    def gate_and_shift(self, t: Tensor) -> tuple[Tensor | None, Tensor]:
        """g (or None for ones) and s, (*t.shape, features)."""
        t = t.unsqueeze(-1)
        if self.time == "none":
            return None, self.bias.expand(*t.shape[:-1], -1)
        if self.time == "concat":
            return None, self.bias + self.time_shift * t
        gate = torch.sigmoid(self.time_gate * t + self.gate_bias)
        return gate, gate * self.bias + self.time_shift * t

    def _applied(self, r: Tensor, t: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Gate and shift of the products W h, and the gate of their tangents (B, K, ...)."""
        gate, shift = self.gate_and_shift(t)
        spread = [*shift.shape, *[1] * (r.dim() - 2)]  # (B, C, 1, 1), or (C, 1, 1) for one time
        if gate is None:
            return r + shift.reshape(spread), v
        gate = gate.reshape(spread)
        if v is not None:
            v = v * (gate.unsqueeze(1) if t.dim() else gate)
        return r * gate + shift.reshape(spread), v


class TimeLinear(_Timed):
    r"""A linear layer that hears the time: "none" :math:`W h + b`, "concat" :math:`W h + b + t u`, "concatsquash"
    :math:`(W h + b)\, \sigma(w t + c) + t u`.

    (B, in_features) -> (B, out_features) at one time t () or one a row, (B,). "concat" is what appending t to h does.
    ``zero=True`` starts W and all shifts at zero. Grathwohl et al., 2019, arXiv:1810.01367. Cost: one matrix product.

    >>> import torch
    >>> from pyflowk.nets import TimeLinear
    >>> TimeLinear(2, 3, "concatsquash")(torch.tensor(0.5), torch.zeros(4, 2)).shape
    torch.Size([4, 3])
    """

    def __init__(self, in_features: int, out_features: int, time: str = "concat", zero: bool = False) -> None:
        super().__init__(out_features, time)
        plain = nn.Linear(in_features, out_features)
        self.weight = plain.weight
        _start(self, plain.bias, zero)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        return self._applied(F.linear(h, self.weight), t)[0]


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
        self, in_channels: int, out_channels: int, kernel_size: int, time: str = "concat", zero: bool = False
    ) -> None:
        super().__init__(out_channels, time)
        plain = nn.Conv2d(in_channels, out_channels, kernel_size)
        self.weight = plain.weight
        assert plain.bias is not None
        _start(self, plain.bias, zero)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        return self.with_tangents(t, h)[0]

    def with_tangents(self, t: Tensor, h: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The layer, and its tangents for those v (B, K, C, H, W) of h."""
        padding = self.weight.shape[-1] // 2
        if v is not None:
            v = F.conv2d(v.flatten(0, 1), self.weight, padding=padding).unflatten(0, v.shape[:2])
        return self._applied(F.conv2d(h, self.weight, padding=padding), t, v)


def _start(layer: TimeLinear | TimeConv2d, bias: Tensor, zero: bool) -> None:
    with torch.no_grad():
        if zero:
            layer.weight.zero_()
        else:
            layer.bias.copy_(bias)
            if layer.time != "none":
                layer.time_shift.uniform_(-1, 1).mul_(layer.bias.abs().max())
