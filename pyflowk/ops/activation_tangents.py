"""Activations of deep networks with tangents: values, and directional derivatives that share the slope."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._router import FusedOp
from .activations import ACTIVATIONS, Activation, named
from .dtypes import FLOATING, state_dtype

__all__ = ["activation_with_tangents"]

#: name -> code of the activation in `csrc/math/activation_tangents.h`.
_KINDS = {"silu": 0, "gelu_tanh": 1}


def _of_kind(kind: int) -> Activation:
    return named(_KINDS, kind)


def _bend(x: Tensor, kind: int) -> Tensor:
    """The second derivative of x s(z), s the logistic function; z is x for SiLU, a cubic of it for GELU by tanh."""
    if kind == _KINDS["silu"]:
        s, rest = torch.sigmoid(x), torch.sigmoid(-x)
        return s * rest * (2 + x * (rest - s))
    c, square = 2 * math.sqrt(2 / math.pi), x.square()
    z, dz, ddz = c * x * (1 + 0.044715 * square), c * (1 + 3 * 0.044715 * square), 6 * c * 0.044715 * x
    s, rest = torch.sigmoid(z), torch.sigmoid(-z)
    return s * rest * (2 * dz + x * ((rest - s) * dz * dz + ddz))


def _formula(x: Tensor, dx: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    """The op in plain torch: the reference of the kernel, and what Inductor, functorch and a GPU see."""
    wide, act = x.to(state_dtype(x)), _of_kind(kind)
    return act.value(wide).to(x.dtype), (dx * act.slope(wide).unsqueeze(1)).to(x.dtype)


def _backward_formula(x: Tensor, dx: Tensor, gy: Tensor, gdy: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    wide = x.to(state_dtype(x))
    slope, products = _of_kind(kind).slope(wide), gdy.to(wide.dtype) * dx
    gx = gy * slope + products.sum(1) * _bend(wide, kind)
    return gx.to(x.dtype), (gdy * slope.unsqueeze(1)).to(x.dtype)


def _check(x: Tensor, dx: Tensor, kind: int) -> None:
    """What `csrc/bind/activation_tangents.cpp` checks, for the paths that do not go through it."""
    if x.dtype not in FLOATING or dx.dtype != x.dtype:
        raise TypeError(
            "activation_tangents: x must be float32, float64, bfloat16 or float16 and dx of its dtype; got "
            f"{x.dtype} and {dx.dtype}"
        )
    if x.device != dx.device:
        raise ValueError(f"activation_tangents: x and dx must be on one device; got {x.device} and {dx.device}")
    if x.ndim < 1 or dx.ndim != x.ndim + 1 or (*dx.shape[:1], *dx.shape[2:]) != x.shape:
        raise ValueError(
            f"activation_tangents: x must be (B, *event) and dx (B, K, *event); got {tuple(x.shape)} and "
            f"{tuple(dx.shape)}"
        )
    if kind not in _KINDS.values():
        raise ValueError(f"activation_tangents: kind must be 0 (SiLU) or 1 (GELU by tanh); got {kind}")


def _fake(x: Tensor, dx: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), dx.new_empty(dx.shape)


_op = FusedOp(
    "activation_tangents",
    "(Tensor x, Tensor dx, int kind) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=_fake,
    saved=lambda x, dx, y, dy: (x, dx),
    backward=FusedOp(
        "activation_tangents_backward",
        "(Tensor x, Tensor dx, Tensor gy, Tensor gdy, int kind) -> (Tensor, Tensor)",
        formula=_backward_formula,
        fake=_fake,
    ),
)


def activation_with_tangents(x: Tensor, dx: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    r"""Compute an activation :math:`f(x)` and its derivatives :math:`f'(x)\, \dot x_k` along K directions in one pass.

    Args:
        x: (B, \*event), float32, float64, bfloat16 or float16; any strides.
        dx: (B, K, \*event), of x's dtype.
        activation: "silu" and "gelu_tanh" have a kernel; others of ``ops.activations.ACTIVATIONS`` are plain torch.

    Returns:
        f(x), shaped as x, and the derivatives, shaped as dx; both differentiable.

    Raises:
        ValueError, TypeError: an unknown activation, shapes, dtypes or devices that do not fit.

    Cost: one pass over x, dx and what comes out; the gradient one more. On a GPU it is the plain formula. Sources:
    Hendrycks, Gimpel 2016 (arXiv:1606.08415); Elfwing, Uchibe, Doya 2018 (arXiv:1702.03118).

    >>> activation_with_tangents(torch.zeros(1, 2), torch.ones(1, 1, 2), "silu")
    (tensor([[0., 0.]]), tensor([[[0.5000, 0.5000]]]))
    """
    if activation in _KINDS:
        return _op((x, dx, _KINDS[activation]))
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}; got {activation!r}")
    act = ACTIVATIONS[activation]
    return act.value(x), dx * act.slope(x).unsqueeze(1)
