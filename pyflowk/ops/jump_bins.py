"""Jumps along straight lines from noise to data: how often a coordinate must jump, and into which bin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING, state_dtype

__all__ = ["jump_bins"]

_NO_NOISE = 1e-30  # the share of the noise at the end, where jumps land on the data: nothing is divided by 0

_MOST = 1 << 24  # bins, all of which float32 can count


def _formula(x0: Tensor, x1: Tensor, t: Tensor, low: float, high: float, bins: int) -> tuple[Tensor, Tensor]:
    """The op in plain torch: the reference of the kernels."""
    noise, data = (x.to(t.dtype) for x in (x0, x1))
    t = t.reshape(-1, *[1] * (x1.ndim - 1))
    intensity = torch.relu(noise * noise - noise * data - 1)
    far = (data.abs() + (data * data + 4).sqrt()) / 2  # the larger root; their product is -1
    upper = torch.where(data < 0, 1 / far, far)
    total = _density(upper) / upper + upper * _density(1 / upper)
    centre, sigma, data, lower, upper = (
        value.unsqueeze(-1) for value in (t * data, (1 - t).clamp(min=_NO_NOISE), data, -1 / upper, upper)
    )
    inside = low + (high - low) / bins * torch.arange(1, bins, dtype=t.dtype, device=t.device)
    e = ((inside - centre) / sigma).clamp(lower, upper)
    e = torch.cat((lower, e, upper), -1)
    masses = ((e - data) * _density(e) / total.unsqueeze(-1)).diff(dim=-1)
    return intensity, torch.relu(masses)


def _density(e: Tensor) -> Tensor:
    return torch.exp(-e * e / 2) / math.sqrt(2 * math.pi)


def _check(x0: Tensor, x1: Tensor, t: Tensor, low: float, high: float, bins: int) -> None:
    """What `csrc/bind/jump_bins.cpp` checks, for the paths that do not go through it."""
    if x0.dtype not in FLOATING:
        raise TypeError(f"jump_bins: x0 must be float32, float64, bfloat16 or float16; got {x0.dtype}")
    if x0.ndim < 1:
        raise ValueError(f"jump_bins: x0 must be (B, *event); got {tuple(x0.shape)}")
    if x1.shape != x0.shape:
        raise ValueError(f"jump_bins: x1 must have the shape of x0, {tuple(x0.shape)}; got {tuple(x1.shape)}")
    for what, value, dtype in (("x1", x1, x0.dtype), ("t", t, state_dtype(x0))):
        if value.dtype != dtype:
            raise TypeError(f"jump_bins: {what} must be {dtype}; got {value.dtype}")
        if value.device != x0.device:
            raise ValueError(f"jump_bins: x0 and {what} must be on one device; got {x0.device} and {value.device}")
    if t.shape != x0.shape[:1]:
        raise ValueError(f"jump_bins: t must be ({x0.shape[0]},), a number a row; got {tuple(t.shape)}")
    if not 1 <= bins <= _MOST or not low < high or not high - low < math.inf:
        raise ValueError(f"jump_bins: expected low < high and 1 to {_MOST} bins; got {low}, {high} and {bins}")


_op = FusedOp(
    "jump_bins",
    "(Tensor x0, Tensor x1, Tensor t, float low, float high, int bins) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=lambda x0, x1, t, low, high, bins: (
        x0.new_empty(x0.shape, dtype=t.dtype),
        x0.new_empty((*x0.shape, bins), dtype=t.dtype),
    ),
    expand_below=0,
)


def jump_bins(x0: Tensor, x1: Tensor, t: Tensor, *, low: float, high: float, bins: int) -> tuple[Tensor, Tensor]:
    r"""Find the rates and landing bins of the jumps that carry :math:`N(t x_1, (1 - t)^2)` along, coordinate by
    coordinate.

    With :math:`e = x_0` the noise and :math:`z = x_1` the data of :math:`x_t = t z + (1 - t) e`, a pure jump process
    has these marginals if it leaves x at the rate :math:`\lambda` and lands, wherever it was, by the law J:

    .. math:: (1 - t)\, \lambda = \max(e^2 - e z - 1, 0), \quad
        J(y) \propto \max(1 + e_y z - e_y^2, 0)\, \varphi(e_y), \quad e_y = (y - t z) / (1 - t),

    which are the negative and the positive part of the density's change: no process of jumps has fewer. Mass between
    two places is a difference of :math:`(e - z)\, \varphi(e)`, without any error function. Bins are equal parts of
    [low, high]; the first and the last also take what lies beyond.

    Args:
        x0, x1: noise and data (B, \*event), float32, float64, bfloat16 or float16, any strides.
        t: times (B,) in [0, 1], float32 (float64 beside float64 events). At 1 jumps land on the data.
        low, high, bins: the range of the bins, and how many they are.

    Returns:
        :math:`(1 - t)\, \lambda`, of the shape of x0, and the masses of the bins, with one dimension more, which sum to
        one; both in the dtype of t. They have no gradient.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit; an empty range.

    Cost: an exponential a bin, one pass over memory. Source: Holderrieth et al. 2024, arXiv:2410.20587, CondOT jumps;
    the rates here are 1 - t of theirs, and of order one up to the end.

    >>> rate, masses = jump_bins(torch.tensor([[-2.0]]), torch.ones(1, 1), torch.tensor([0.5]), low=-2, high=2, bins=4)
    >>> rate, masses  # the rate itself is 10
    (tensor([[5.]]), tensor([[[0.0000, 0.0000, 0.8890, 0.1110]]]))
    """
    return _op((x0.detach(), x1.detach(), t.detach(), float(low), float(high), bins))
