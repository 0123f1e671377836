"""LipSwish with its slope: what a residual branch and its Jacobian need of the activation, one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ._router import FusedOp

__all__ = ["lipswish", "lipswish_formula"]


def lipswish_formula(x: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """The op in plain torch: the reference of the kernel, and what Inductor and functorch see."""
    s = torch.sigmoid(beta * x)
    part = s / 1.1
    value = x * part
    return value, torch.addcmul(part, beta * value, 1 - s)


def _backward_formula(x: Tensor, beta: Tensor, dvalue: Tensor, dslope: Tensor) -> tuple[Tensor, Tensor]:
    t = beta * x
    s = torch.sigmoid(t)
    part, rest = s / 1.1, 1 - s
    steep = part * rest
    bend = steep * (2 + t * (rest - s)) * dslope
    dbeta = (x * (dvalue * x * steep + bend)).sum().reshape(1)
    return torch.addcmul(dvalue * (part + t * steep), beta, bend), dbeta


def _check(x: Tensor, beta: Tensor) -> None:
    """What `csrc/bind/lipswish.cpp` checks, for the paths that do not go through it."""
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"lipswish: x must be float32 or float64; got {x.dtype}")
    if x.ndim < 1:
        raise ValueError(f"lipswish: x must be (B, *event); got {tuple(x.shape)}")
    if beta.dtype != x.dtype:
        raise TypeError(f"lipswish: beta must be {x.dtype}; got {beta.dtype}")
    if beta.device != x.device:
        raise ValueError(f"lipswish: x and beta must be on one device; got {x.device} and {beta.device}")
    if beta.shape != (1,):
        raise ValueError(f"lipswish: beta must be (1,); got {tuple(beta.shape)}")


_op = FusedOp(
    "lipswish",
    "(Tensor x, Tensor beta) -> (Tensor, Tensor)",
    formula=lipswish_formula,
    check=_check,
    fake=lambda x, beta: (x.new_empty(x.shape), x.new_empty(x.shape)),
    saved=lambda x, beta, value, slope: (x, beta),
    shared=("beta",),
    backward=FusedOp(
        "lipswish_backward",
        "(Tensor x, Tensor beta, Tensor dvalue, Tensor dslope) -> (Tensor, Tensor)",
        formula=_backward_formula,
        fake=lambda x, beta, dvalue, dslope: (x.new_empty(x.shape), beta.new_empty(beta.shape)),
        shared=("beta",),
    ),
)


def lipswish(x: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    r"""Compute the activation :math:`\phi(x) = x\, \sigma(\beta x) / 1.1` and its slope :math:`\phi'(x)`.

    Args:
        x: (B, \*event), float32 or float64; any strides.
        beta: (1,), of x's dtype.

    Returns:
        value and slope, shaped as x.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, with both named.

    Cost: one pass over memory; the gradient, that of both outputs, one more. On a GPU it is the plain formula.
    Source: Chen, Behrmann, Duvenaud, Jacobsen, 2019, arXiv:1906.02735, section 3.3.

    >>> value, slope = lipswish(torch.tensor([0.0, 2.0]), torch.ones(1))
    >>> value, slope
    (tensor([0.0000, 1.6014]), tensor([0.4545, 0.9916]))
    """
    return _op((x, beta))
