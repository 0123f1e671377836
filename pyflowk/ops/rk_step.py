"""The two halves of a Runge-Kutta step: a state from the slopes so far, and the scaled norm of the error estimate.

Slopes come as a list of tensors, none of which is copied into a buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING, state_dtype

__all__ = ["MOST_SLOPES", "rk_combine", "rk_error"]

#: the most slopes with a weight that is not zero in one row of any method: dopri8 has nine.
MOST_SLOPES = 9


def _column(h: Tensor, y: Tensor) -> Tensor:
    return h.reshape(-1, *[1] * (y.ndim - 1))


def _weighted(ks: Sequence[Tensor], weights: Sequence[float], dtype: torch.dtype) -> Tensor:
    total = weights[0] * ks[0].to(dtype)
    for k, weight in zip(ks[1:], weights[1:]):
        total = total + weight * k.to(dtype)
    return total


def _row_sums(t: Tensor) -> Tensor:
    return t.flatten(1).sum(1) if t.ndim > 1 else t


def _check_like(name: str, y: Tensor, what: str, t: Tensor) -> None:
    if t.shape != y.shape:
        raise ValueError(f"{name}: {what} must have the shape of y, {tuple(y.shape)}; got {tuple(t.shape)}")
    if t.dtype != y.dtype:
        raise TypeError(f"{name}: {what} must have the dtype of y, {y.dtype}; got {t.dtype}")
    if t.device != y.device:
        raise ValueError(f"{name}: all tensors must be on one device; got y on {y.device}, {what} on {t.device}")


def _check_slopes(name: str, y: Tensor, h: Tensor, ks: Sequence[Tensor], weights: Sequence[float]) -> None:
    """What `csrc/bind/rk_step.cpp` checks, for the paths that do not go through it."""
    if not 1 <= len(ks) <= MOST_SLOPES:
        raise ValueError(f"{name}: expected 1 to {MOST_SLOPES} slopes; got {len(ks)}")
    if y.dtype not in FLOATING:
        raise TypeError(f"{name}: y must be float32, float64, bfloat16 or float16; got {y.dtype}")
    if y.ndim < 1:
        raise ValueError(f"{name}: y must be (B, *event); got {tuple(y.shape)}")
    if h.dtype != state_dtype(y):
        raise TypeError(f"{name}: h must be {state_dtype(y)} beside a y of {y.dtype}; got {h.dtype}")
    if h.shape != y.shape[:1]:
        raise ValueError(f"{name}: h must be ({y.shape[0]},), a step a row; got {tuple(h.shape)}")
    if h.device != y.device:
        raise ValueError(f"{name}: all tensors must be on one device; got y on {y.device}, h on {h.device}")
    for i, k in enumerate(ks):
        _check_like(name, y, f"slope {i}", k)
    if len(weights) != len(ks):
        raise ValueError(f"{name}: expected {len(ks)} weights, one a slope; got {len(weights)}")


# ---- rk_combine ----------------------------------------------------------------------------------------------------


def rk_combine_formula(y: Tensor, h: Tensor, ks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """`rk_combine` in plain torch."""
    dtype = state_dtype(y)
    return (y.to(dtype) + _column(h, y) * _weighted(ks, weights, dtype)).to(y.dtype)


def _combine(y: Tensor, h: Tensor, ks: Sequence[Tensor], weights: Sequence[float]) -> tuple[Tensor]:
    return (rk_combine_formula(y, h, ks, weights),)


def _combine_backward(
    h: Tensor, ks: Sequence[Tensor], dy: Tensor, weights: Sequence[float]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    dtype = state_dtype(dy)
    g = dy.to(dtype)
    scaled = _column(h, dy) * g
    dh = _row_sums(g * _weighted(ks, weights, dtype))
    return dy.clone(), dh, [(weight * scaled).to(dy.dtype) for weight in weights]


_rk_combine = FusedOp(
    "rk_combine",
    "(Tensor y, Tensor h, Tensor[] ks, float[] weights) -> Tensor",
    formula=_combine,
    check=partial(_check_slopes, "rk_combine"),
    fake=lambda y, *rest: (y.new_empty(y.shape),),
    saved=lambda y, h, ks, out: (h, ks),
    backward=FusedOp(
        "rk_combine_backward",
        "(Tensor h, Tensor[] ks, Tensor dy, float[] weights) -> (Tensor, Tensor, Tensor[])",
        formula=_combine_backward,
        fake=lambda h, ks, dy, weights: (
            dy.new_empty(dy.shape),
            h.new_empty(h.shape),
            [k.new_empty(k.shape) for k in ks],
        ),
    ),
)


# ---- rk_error ------------------------------------------------------------------------------------------------------


def _scaled(y0: Tensor, y1: Tensor, h: Tensor, ks: Sequence[Tensor], config: tuple) -> tuple[Tensor, ...]:
    """(scale, slope of the error, error over scale)"""
    weights, rtol, atol = config
    dtype = state_dtype(y0)
    scale = atol + rtol * torch.maximum(y0.to(dtype).abs(), y1.to(dtype).abs())
    slope = _weighted(ks, weights, dtype)
    return scale, slope, _column(h, y0) * slope / scale


def rk_error_formula(
    y0: Tensor, y1: Tensor, h: Tensor, ks: Sequence[Tensor], weights: Sequence[float], rtol: Any, atol: Any
) -> Tensor:
    """`rk_error` in plain torch; tolerances may be 0-d tensors."""
    ratio = scaled_error(y0, y1, h, ks, weights, rtol, atol)
    # the root of an exact zero has no slope that could be multiplied by zero: it gets none
    square = _row_sums(ratio * ratio) / max(y0.shape[1:].numel(), 1)
    root = square.where(square != 0, 1).sqrt()
    return root.where(square != 0, 0)


def scaled_error(
    y0: Tensor, y1: Tensor, h: Tensor, ks: Sequence[Tensor], weights: Sequence[float], rtol: Any, atol: Any
) -> Tensor:
    """Return what `rk_error` takes the norm of, (B, *event); tolerances may be tensors that broadcast against it."""
    return _scaled(y0, y1, h, ks, (weights, rtol, atol))[2]


def _error(*args: Any) -> tuple[Tensor]:
    return (rk_error_formula(*args),)


def _error_backward(
    y0: Tensor,
    y1: Tensor,
    h: Tensor,
    ks: Sequence[Tensor],
    norm: Tensor,
    gradient: Tensor,
    weights: Sequence[float],
    rtol: float,
    atol: float,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    scale, slope, ratio = _scaled(y0, y1, h, ks, (weights, rtol, atol))
    share = (gradient / norm.where(norm != 0, 1)).where(norm != 0, 0) / max(y0.shape[1:].numel(), 1)
    g = _column(share, y0) * ratio / scale  # of the error itself
    dscale = -g * ratio * rtol
    wide0, wide1 = y0.to(g.dtype), y1.to(g.dtype)
    first = (1 + (wide0.abs() - wide1.abs()).sign()) / 2  # which of the two made the scale; at a tie both by half
    scaled = _column(h, y0) * g
    return (
        (dscale * first * wide0.sign()).to(y0.dtype),
        (dscale * (1 - first) * wide1.sign()).to(y0.dtype),
        _row_sums(g * slope),
        [(weight * scaled).to(y0.dtype) for weight in weights],
    )


def _error_check(
    y0: Tensor, y1: Tensor, h: Tensor, ks: Sequence[Tensor], weights: Sequence[float], rtol: float, atol: float
) -> None:
    _check_slopes("rk_error", y0, h, ks, weights)
    _check_like("rk_error", y0, "y1", y1)
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise ValueError(f"rk_error: rtol and atol must not be negative nor both zero; got rtol={rtol}, atol={atol}")


def _error_backward_check(
    y0: Tensor, y1: Tensor, h: Tensor, ks: Sequence[Tensor], norm: Tensor, gradient: Tensor, *config: Any
) -> None:
    _error_check(y0, y1, h, ks, *config)
    for name, tensor in (("norm", norm), ("gradient", gradient)):
        if tensor.shape != y0.shape[:1]:
            raise ValueError(f"rk_error: {name} must be ({y0.shape[0]},), a number a row; got {tuple(tensor.shape)}")


_rk_error = FusedOp(
    "rk_error",
    "(Tensor y0, Tensor y1, Tensor h, Tensor[] ks, float[] weights, float rtol, float atol) -> Tensor",
    formula=_error,
    check=_error_check,
    fake=lambda y0, *rest: (y0.new_empty(y0.shape[:1], dtype=state_dtype(y0)),),
    saved=lambda *tensors: tensors,
    backward=FusedOp(
        "rk_error_backward",
        "(Tensor y0, Tensor y1, Tensor h, Tensor[] ks, Tensor norm, Tensor gradient, float[] weights, float rtol, "
        "float atol) -> (Tensor, Tensor, Tensor, Tensor[])",
        formula=_error_backward,
        check=_error_backward_check,
        fake=lambda y0, y1, h, ks, *rest: (
            y0.new_empty(y0.shape),
            y0.new_empty(y0.shape),
            h.new_empty(h.shape),
            [k.new_empty(k.shape) for k in ks],
        ),
    ),
)


def _present(name: str, ks: Sequence[Tensor], weights: Sequence[float]) -> tuple[list[Tensor], list[float]]:
    """Slopes and weights without those of weight zero."""
    if len(ks) != len(weights):
        raise ValueError(f"{name}: expected {len(ks)} weights, one a slope; got {len(weights)}")
    if 0 < len(ks) <= MOST_SLOPES and all(weights):
        return list(ks), list(weights)
    kept = [(k, weight) for k, weight in zip(ks, weights) if weight != 0] or list(zip(ks, weights))[:1]
    if not 1 <= len(kept) <= MOST_SLOPES:
        raise ValueError(f"{name}: expected 1 to {MOST_SLOPES} slopes of non-zero weight; got {len(kept)}")
    return [k for k, _ in kept], [weight for _, weight in kept]


def rk_combine(y: Tensor, h: Tensor, ks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Add slopes to a state, with a step of its own for every row: y + h_b sum_j w_j k_j.

    Args:
        y: (B, *event), float32, float64, bfloat16 or float16, any strides.
        h: (B,) steps, signed; float32 (float64 beside a float64 y). A stride of zero is fine.
        ks: slopes, each of y's shape and dtype; those of weight zero are not read.
        weights: one number a slope; at most nine that are not zero.

    Returns:
        A new tensor like y.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices or counts that do not fit, with both named.

    Cost: one pass over memory; the backward one more. Source: Hairer, Norsett, Wanner 1993, II.1.

    >>> rk_combine(torch.zeros(2, 1), torch.tensor([1.0, 2.0]), [torch.ones(2, 1)], [0.5])
    tensor([[0.5000],
            [1.0000]])
    """
    slopes, kept = _present("rk_combine", ks, weights)
    return _rk_combine((y, h, slopes, kept))[0]


def rk_error(
    y0: Tensor,
    y1: Tensor,
    h: Tensor,
    ks: Sequence[Tensor],
    weights: Sequence[float],
    *,
    rtol: float,
    atol: float,
) -> Tensor:
    """Measure the embedded error estimate of every row in units of what is tolerated; a step is good up to 1.

    With e = h_b sum_j w_j k_j: the root mean square over the row of e / (atol + rtol max(|y0|, |y1|)).

    Args:
        y0, y1: (B, *event), the states before and after the step; dtypes as for `rk_combine`.
        h, ks, weights: as for `rk_combine`; the weights are those of the error.
        rtol, atol: relative and absolute tolerance, not both zero.

    Returns:
        (B,), float32 (float64 for a float64 y0); NaN where a row has one. Bitwise the same for any batch mates.

    Raises:
        ValueError, TypeError: as `rk_combine`, and for tolerances.

    Cost: one pass over memory. Source: Hairer, Norsett, Wanner 1993, II.4.

    >>> y = torch.zeros(1, 4)
    >>> rk_error(y, y, torch.ones(1), [torch.ones(1, 4)], [0.5], rtol=0.0, atol=0.25)
    tensor([2.])
    """
    slopes, kept = _present("rk_error", ks, weights)
    return _rk_error((y0, y1, h, slopes, kept, rtol, atol))[0]
