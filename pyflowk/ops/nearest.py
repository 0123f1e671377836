"""The target with the largest inner product and height: what a semidiscrete transport asks for every source."""

from __future__ import annotations

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING, state_dtype

__all__ = ["nearest"]

_FEW = 32  # coordinates up to which the kernel serves on a card
_PIECE = 1 << 22  # products that the formula has in memory at a time


def _formula(x0: Tensor, x1: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    """The op in plain torch, by pieces of the targets."""
    x0, x1 = x0.to(heights.dtype), x1.to(heights.dtype)
    value = x0.new_full(x0.shape[:1], -torch.inf)
    index = torch.zeros_like(value, dtype=torch.int64)
    step = max(1, _PIECE // max(1, len(x0)))
    for first in range(0, len(x1) if len(x0) else 0, step):
        here, at = (x0 @ x1[first : first + step].T + heights[first : first + step]).max(1)
        larger = (here > value) | here.isnan()
        value, index = torch.where(larger, here, value), torch.where(larger, at + first, index)
    return index, value


def _check(x0: Tensor, x1: Tensor, heights: Tensor) -> None:
    """What `csrc/bind/nearest.cpp` checks, for the paths that do not go through it."""
    if x0.ndim != 2 or x1.ndim != 2 or x0.shape[1] != x1.shape[1]:
        raise ValueError(f"nearest: expected x0 (B, D) and x1 (N, D); got {tuple(x0.shape)} and {tuple(x1.shape)}")
    if x0.dtype not in FLOATING:
        raise TypeError(f"nearest: x0 must be float32, float64, bfloat16 or float16; got {x0.dtype}")
    for what, t, dtype in (("x1", x1, x0.dtype), ("heights", heights, state_dtype(x0))):
        if t.dtype != dtype:
            raise TypeError(f"nearest: {what} must be {dtype}; got {t.dtype}")
        if t.device != x0.device:
            raise ValueError(f"nearest: x0 and {what} must be on one device; got {x0.device} and {t.device}")
    if heights.shape != x1.shape[:1]:
        raise ValueError(f"nearest: heights must be ({len(x1)},); got {tuple(heights.shape)}")
    if len(x1) == 0 and len(x0) > 0:
        raise ValueError("nearest: there is no target")


_op = FusedOp(
    "nearest",
    "(Tensor x0, Tensor x1, Tensor heights) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=lambda x0, x1, heights: (
        x0.new_empty(x0.shape[:1], dtype=torch.int64),
        x0.new_empty(x0.shape[:1], dtype=heights.dtype),
    ),
    expand_below=0,
    prefers_formula=lambda x0, x1, heights: x0.ndim == 2 and x0.shape[1] > _FEW,
)


def nearest(x0: Tensor, x1: Tensor, heights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Find for every row of x0 the row of x1 with the largest :math:`\langle x_0, x_1^j \rangle + h_j`.

    With :math:`h_j = g_j - |x_1^j|^2 / 2` it is the one with the least :math:`|x_0 - x_1^j|^2 / 2 - g_j`: the nearest,
    where all g are equal.

    Args:
        x0: (B, D), float32, float64, bfloat16 or float16.
        x1: (N, D), of the same dtype, N > 0 unless B = 0.
        heights: (N,), float32 (float64 for a float64 x0); 0 if none are given. -inf leaves a target out.

    Returns:
        The index (B,), int64, of equal targets the first; and the largest value (B,), in the dtype of the heights. NaN
        among the numbers of a row gives NaN. They have no gradient. Rows do not depend on those beside them.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit; no target.

    Cost: 2 B N D flops; memory for B + 64 rows, of B x N none. On a card more than 32 coordinates go through torch's
    product, 2^22 numbers at a time.

    >>> nearest(torch.tensor([[2.0], [-1.0]]), torch.tensor([[1.0], [-3.0]]))
    (tensor([0, 1]), tensor([2., 3.]))
    """
    if heights is None:
        heights = x1.new_zeros(x1.shape[:1], dtype=state_dtype(x1))
    return _op((x0.detach(), x1.detach(), heights.detach()))
