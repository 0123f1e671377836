"""Between the ends of a step: the method's own polynomial in theta, theta = 0 at the start and 1 at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...ops.dtypes import state_dtype
from .stages import column
from .tableaus import Tableau

__all__ = ["Dense", "interpolate"]


def interpolate(table: Tableau, theta: Tensor, y: Tensor, h: Tensor, ks: Sequence[Tensor]) -> Tensor:
    """The states of some rows at theta (R,); y, h and ks are those rows' own.

    Every operation is elementwise, so that a row does not depend on the others.
    """
    dtype = state_dtype(y)
    theta = theta.to(dtype)
    total = torch.zeros_like(y, dtype=dtype)
    for k, row in zip(ks, table.interpolant, strict=True):
        if not any(row):
            continue
        weight = torch.full_like(theta, row[-1])
        for coefficient in row[-2::-1]:
            weight = weight * theta + coefficient
        total = total + column(weight * theta, y) * k.to(dtype)
    return (y.to(dtype) + column(h.to(dtype), y) * total).to(y.dtype)


@dataclass
class Dense:
    """A whole solution as a function of time: `dense(t)` with t (N,) or (B, N) gives (N, B, *event), () (B, *event).

    Outside the interval that a row was solved on the answer is NaN. ValueError for other shapes. Differentiable where
    the solution is. Cost: a pass over the steps; all their slopes are kept.

    >>> from pyflowk.solvers import Adaptive, solve_ivp
    >>> y = solve_ivp(lambda t, y: -y, torch.ones(1, 1), [0.0, 1.0], stepping=Adaptive(1e-6, 1e-6), dense=True).dense
    >>> y([0.5, 2.0])[:, 0, 0]
    tensor([0.6065,    nan])
    >>> y
    Dense(dopri5, 5 steps)
    """

    table: Tableau
    steps: list[tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Dense({self.table.name}, {len(self.steps)} steps)"

    def add(self, t: Tensor, h: Tensor, taken: Tensor, y: Tensor, ks: list[Tensor]) -> None:
        """One step of all rows: t, h (B,), which of them took it, y and slopes."""
        self.steps.append((t, h, taken, y, ks))

    def __call__(self, t: Tensor | Sequence[float] | float) -> Tensor:
        if not self.steps:
            raise ValueError("dense output: no step was taken")
        first = self.steps[0][3]
        rows = first.shape[0]
        t = torch.as_tensor(t, dtype=self.steps[0][0].dtype, device=self.steps[0][0].device)
        if t.ndim == 0:
            return self(t[None])[0]
        t = t.expand(rows, -1) if t.ndim == 1 else t
        if t.ndim != 2 or t.shape[0] != rows:
            raise ValueError(f"dense output: t must be (), (N,) or ({rows}, N); got {tuple(t.shape)}")
        found_rows, found_columns, values = [], [], []
        missing = torch.ones_like(t, dtype=torch.bool)
        for start, h, taken, y, ks in self.steps:
            theta = (t - start[:, None]) / torch.where(h == 0, 1, h)[:, None]
            inside = missing & taken[:, None] & (h != 0)[:, None] & (theta >= 0) & (theta <= 1)
            missing = missing & ~inside
            r, c = inside.nonzero(as_tuple=True)
            if r.numel():
                found_rows.append(r)
                found_columns.append(c)
                values.append(interpolate(self.table, theta[r, c], y[r], h[r], [k[r] for k in ks]))
        result = first.new_full((t.shape[1], rows, *first.shape[1:]), float("nan"))
        if not values:
            return result
        return result.index_put((torch.cat(found_columns), torch.cat(found_rows)), torch.cat(values))
