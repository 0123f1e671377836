"""Exact linear assignment: which row goes with which column, so that all pairs together cost the least."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._backends import forced
from ._router import FusedOp
from .dtypes import FLOATING
from .modes import capturing, watched

__all__ = ["Assignment", "assignment", "assignment_of_points"]

LARGEST_COST = 1e300
"""kLargestCost of `csrc/math/assignment.h`."""


FEW = 16
"""Problems below which those of a card are solved on the CPU: one takes a block there, with a barrier at every step, by
prediction about eight times as long as a core does."""


class Assignment(NamedTuple):
    r"""Whose column each row has, what they cost together, and prices that prove that it cannot be done for less.

    ``columns`` (G, B), int64, is a permutation of each problem's columns, ``total`` (G,) the sum of the costs of the
    pairs. The prices u, ``row_prices``, and v, ``column_prices`` (G, B), are a solution of the dual problem:
    :math:`u_i + v_j \le c_{ij}` everywhere, with equality on the pairs, up to rounding. All but the
    columns are float64.
    """

    columns: Tensor
    total: Tensor
    row_prices: Tensor
    column_prices: Tensor


def _hungarian(cost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns, row prices and column prices of one (B, B): a shortest augmenting path for each row (Kuhn, Munkres)."""
    n = cost.shape[0]
    u, v = cost.new_zeros(n), cost.new_zeros(n + 1)  # column n is where a row stands that has none yet
    owner = [-1] * (n + 1)
    for start in range(n):
        distance, before = torch.full_like(v, torch.inf), [n] * n
        closed = torch.zeros(n + 1, dtype=torch.bool, device=cost.device)
        owner[n], at = start, n
        while owner[at] >= 0:
            closed[at] = True
            reduced = (cost[owner[at]] - u[owner[at]] - v[:n]).masked_fill(closed[:n], torch.inf)
            for j in (reduced < distance[:n]).nonzero().flatten().tolist():
                before[j] = at
            distance[:n] = torch.minimum(distance[:n], reduced)
            nearest = int(distance.masked_fill(closed, torch.inf).argmin())
            step = distance[nearest].clone()
            u[[owner[j] for j in closed.nonzero().flatten().tolist()]] += step
            v[closed] -= step
            distance -= step
            at = nearest
        while at != n:
            owner[at], at = owner[before[at]], before[at]
    columns = torch.empty(n, dtype=torch.int64, device=cost.device)
    columns[owner[:n]] = torch.arange(n, device=cost.device)
    return columns, u, v[:n]


def _formula(cost: Tensor) -> tuple[Tensor, ...]:
    """The op in plain torch, one problem after the other: simple and slow."""
    cost = cost.double()
    groups, n = cost.shape[:2]
    columns = torch.arange(n, device=cost.device).repeat(groups, 1)
    total, row_prices, column_prices = (
        cost.new_full(shape, torch.nan) for shape in ((groups,), (groups, n), (groups, n))
    )
    for group, matrix in enumerate(cost):
        if (matrix.abs() <= LARGEST_COST).all():
            columns[group], row_prices[group], column_prices[group] = _hungarian(matrix)
            total[group] = matrix.gather(1, columns[group][:, None]).sum()
    return columns, total, row_prices, column_prices


def _formula_of_points(x0: Tensor, x1: Tensor) -> tuple[Tensor, ...]:
    difference = x0.double()[:, :, None] - x1.double()[:, None]
    return _formula(difference.square().sum(3))


def _check(cost: Tensor) -> None:
    """What `csrc/bind/assignment.cpp` checks, for the paths that do not go through it."""
    _check_dtype("assignment", cost)
    if cost.ndim != 3 or cost.shape[1] != cost.shape[2]:
        raise ValueError(f"assignment: cost must be (G, B, B); got {tuple(cost.shape)}")


def _check_points(x0: Tensor, x1: Tensor) -> None:
    name = "assignment_of_points"
    _check_dtype(name, x0)
    if x0.ndim != 3 or x0.shape[2] < 1:
        raise ValueError(f"{name}: x0 must be (G, B, D), D at least 1; got {tuple(x0.shape)}")
    if x1.shape != x0.shape:
        raise ValueError(f"{name}: x1 must have the shape of x0, {tuple(x0.shape)}; got {tuple(x1.shape)}")
    if x1.dtype != x0.dtype:
        raise TypeError(f"{name}: x1 must be {x0.dtype}; got {x1.dtype}")
    if x1.device != x0.device:
        raise ValueError(f"{name}: x0 and x1 must be on one device; got {x0.device} and {x1.device}")


def _check_dtype(name: str, x: Tensor) -> None:
    if x.dtype not in FLOATING:
        raise TypeError(f"{name}: expected float32, float64, bfloat16 or float16; got {x.dtype}")


def _fake(first: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    shape = first.shape[:2]
    prices = (first.new_empty(shape, dtype=torch.float64) for _ in range(2))
    return first.new_empty(shape, dtype=torch.int64), first.new_empty(shape[:1], dtype=torch.float64), *prices


_RESULTS = "(Tensor, Tensor, Tensor, Tensor)"
_op = FusedOp("assignment", f"(Tensor cost) -> {_RESULTS}", formula=_formula, check=_check, fake=_fake, expand_below=0)
_op_of_points = FusedOp(
    "assignment_of_points",
    f"(Tensor x0, Tensor x1) -> {_RESULTS}",
    formula=_formula_of_points,
    check=_check_points,
    fake=_fake,
    expand_below=0,
)


def assignment(cost: Tensor) -> Assignment:
    r"""Assign every row its own column at the least total cost, exactly: :math:`\min_\pi \sum_i c_{i \pi(i)}`.

    Args:
        cost: (B, B) or (G, B, B) for G problems, float32, float64, bfloat16 or float16; computed in float64.

    Returns:
        An `Assignment` of G problems, or of one, without dimension G: columns, total cost, and the prices that prove it
        optimal. Where several are, it is one of them, the same in every call and whatever else is solved beside it.

    Raises:
        ValueError, TypeError: another shape or dtype; costs that are NaN, infinite or beyond 1e300 (where the kernel of
            a card finds them, looking would stall it: the problem's columns are 0 to B - 1, its numbers NaN).

    It has no derivative: costs are taken as constants. Cost: about B^3 in the worst case, mostly near B^2; 8 B^2 bytes.
    On a card fewer than 16 problems are solved on the CPU, which waits for them. Source: Jonker, Volgenant 1987, "A
    shortest augmenting path algorithm for dense and sparse linear assignment problems".

    >>> columns, total, *_ = assignment(torch.tensor([[4.0, 1.0], [2.0, 3.0]]))
    >>> columns, total
    (tensor([1, 0]), tensor(3., dtype=torch.float64))
    """
    if cost.ndim == 2:
        return Assignment(*(result[0] for result in assignment(cost[None])))
    return _solve(_op, cost)


def assignment_of_points(x0: Tensor, x1: Tensor) -> Assignment:
    r"""Assign every point of x0 its own of x1 at the least sum of squared distances :math:`|x_0^i - x_1^j|^2`, exactly.

    The mean of the chosen squared distances, ``total / B``, is the squared 2-Wasserstein distance of the two samples.

    Args:
        x0: (B, D) or (G, B, D) for G problems, float32, float64, bfloat16 or float16; computed in float64.
        x1: shaped as x0, of its dtype and device.

    Returns:
        An `Assignment` of G problems, or of one, without dimension G. See `assignment`.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit; points that are NaN, infinite or farther apart
            than 1e150, as `assignment` does.

    It has no derivative. Cost: on a core, B = 512 takes a few milliseconds, 4096 some hundred, and points that coincide
    or have heavy tails more; about 400 B bytes above 512 points. Bertsekas 1988, "The auction algorithm: a distributed
    relaxation method for the assignment problem".

    >>> x = torch.tensor([[0.0], [1.0], [5.0]])
    >>> assignment_of_points(x, x.flip(0) + 0.25).columns
    tensor([2, 1, 0])
    """
    if x0.ndim == 2:
        return Assignment(*(result[0] for result in assignment_of_points(x0[None], x1[None])))
    if x0.ndim == 3 and x0.shape[2] == 0:  # points that all lie in one place
        x0, x1 = (x.new_zeros((*x.shape[:2], 1)) for x in (x0, x1))
    return _solve(_op_of_points, x0, x1)


def _solve(op: FusedOp, *tensors: Tensor) -> Assignment:
    """Call the op, on the CPU where that is faster, and see what came of it where looking costs nothing."""
    first = tensors[0]
    there = first.is_cuda and first.ndim == 3 and first.shape[0] < FEW and forced() is None and not watched()
    if there and not capturing(first):
        return Assignment(*(result.to(first.device) for result in _solve(op, *(t.cpu() for t in tensors))))
    solved = Assignment(*op(tuple(t.detach() for t in tensors)))
    if solved.total.is_cpu and not watched() and not solved.total.isfinite().all():
        bad = (~solved.total.isfinite()).nonzero().flatten().tolist()
        raise ValueError(f"{op.name}: expected finite numbers, below 1e300; got others in problem {bad[0]}")
    return solved
