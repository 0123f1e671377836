"""The linear system that the gradient through the inverse of a MADE solves, coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._router import FusedOp
from .made_dense import dense_layers
from .made_layout import plan_size
from .made_network import pull

__all__ = ["made_solve", "solve_op"]


def _formula(
    dy: Tensor, slopes: Tensor, rates: Tensor, terms: Tensor, weights: Tensor, plan: Tensor,
    hidden: Sequence[int], residual: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Pass after pass of the whole network, each of which makes one more coordinate right."""
    params = rates.shape[1] // dy.shape[1]
    layers = dense_layers(weights.to(dy.dtype), plan, dy.shape[1], hidden, params)
    of_layers = slopes.split(tuple(hidden), 1) if hidden else ()
    g, deltas = dy, [terms]
    for _ in range(dy.shape[1] + 1):
        deltas, through = pull(rates * g.repeat_interleave(params, 1) + terms, of_layers, layers, residual)
        g, before = dy + through, g
    return before, torch.cat(deltas, 1)


def _check(
    dy: Tensor, slopes: Tensor, rates: Tensor, terms: Tensor, weights: Tensor, plan: Tensor,
    hidden: Sequence[int], residual: int,
) -> None:  # fmt: skip
    """What `csrc/bind/made.cpp` checks, for the paths that do not go through it."""
    if dy.ndim != 2 or dy.shape[1] < 1:
        raise ValueError(f"made_solve: dy must be (B, D) with D >= 1; got {tuple(dy.shape)}")
    rows, features = dy.shape
    size = plan_size(features, len(hidden))
    if plan.shape != (size,) or weights.ndim != 1:
        raise ValueError(
            f"made_solve: plan must be ({size},) and weights (n,); got {tuple(plan.shape)}, {tuple(weights.shape)}"
        )
    fits = rates.ndim == 2 and rates.shape[0] == rows and rates.shape[1] > 0 and rates.shape[1] % features == 0
    if not fits or terms.shape != rates.shape or slopes.shape != (rows, sum(hidden)):
        raise ValueError(
            f"made_solve: rates and terms must be (B, D params) and slopes (B, {sum(hidden)}); got dy "
            f"{tuple(dy.shape)}, rates {tuple(rates.shape)}, terms {tuple(terms.shape)}, slopes {tuple(slopes.shape)}"
        )


def _fake(dy: Tensor, slopes: Tensor, rates: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(dy), dy.new_empty((dy.shape[0], slopes.shape[1] + rates.shape[1]))


solve_op = FusedOp(
    "made_solve",
    "(Tensor dy, Tensor slopes, Tensor rates, Tensor terms, Tensor weights, Tensor plan, int[] hidden, int residual) "
    "-> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=_fake,
    shared=("weights", "plan"),
    indices=("plan",),
    expand_below=0,
)


def made_solve(
    dy: Tensor, slopes: Tensor, rates: Tensor, terms: Tensor, weights: Tensor, plan: Tensor,
    hidden: Sequence[int], residual: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r"""Solve :math:`g = dy + N^\top(r g + c)`, N the derivative of the network that gives a MADE its parameters.

    N takes a change of the coordinates to one of the parameters, and is strictly triangular: g comes in one sweep from
    the last coordinate to the first.

    Args:
        dy: (B, D), coordinates in the order of the autoregression, as in all other arguments.
        slopes: (B, sum of hidden), of the activations.
        rates, terms: r and c, (B, D params): params of coordinate 0, of coordinate 1, ...
        weights, plan, hidden: as in :func:`made_inverse`; residual: its code.

    Returns:
        g (B, D); the gradient of every unit before its activation and of every parameter, (B, units).

    Cost: that of one pass back through the network. On a CPU it is the formula, D + 1 passes: there the whole gradient
    is one kernel.
    """
    return solve_op((dy, slopes, rates, terms, weights, plan, tuple(hidden), residual))
