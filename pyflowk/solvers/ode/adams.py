"""Adams-Bashforth-Moulton: predict, evaluate, correct, evaluate, on any mesh, with two evaluations a step.

The weights come from the mesh itself, so that unequal steps keep the order: a polynomial through the last slopes is
integrated over the step. The first steps are Runge-Kutta steps of order 4 (the 3/8 rule).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checked import Checked
from .mesh import Mesh, in_stretches
from .methods import TABLEAUS
from .stages import column, rk_stages

__all__ = ["integrate_adams"]


def _weights(points: Tensor, first: int, nodes: int, order: int) -> Tensor:
    """(n, order, ...): of the slopes at points i + nodes - 1 down, for every step i -> i + 1 from `first` on.

    With places s_j = (t_j - t_i) / h they integrate 1, s, s^2, ... over the step exactly; as many powers as there are
    places apart from one another, as behind a time that is repeated: the slopes there are one, and have one weight.
    """
    start, end = points[first:-1], points[first + 1 :]
    count, last = start.shape[0], first + nodes
    known = torch.stack([points[last - j : last - j + count] for j in range(order)], -1)
    h = torch.where(end == start, 1, end - start)  # a step of no length needs no weights
    places = (known - start[..., None]) / h[..., None]
    places = torch.where((end == start)[..., None], -torch.arange(order, device=points.device).to(points), places)
    again = torch.cat([torch.zeros_like(places[..., :1], dtype=torch.bool), places.diff(dim=-1) == 0], -1)
    position = again.to(torch.int8).argsort(dim=-1, stable=True)  # those that are apart first
    places, some = places.gather(-1, position), torch.arange(order, device=points.device) < (~again).sum(-1, True)
    powers = torch.stack([places**p for p in range(order)], -2)
    both = some[..., None, :] & some[..., None]
    powers = torch.where(both, powers, torch.eye(order, dtype=points.dtype, device=points.device))
    moments = some / torch.arange(1, order + 1, dtype=points.dtype, device=points.device)
    weights = torch.linalg.solve(powers, moments[..., None])[..., 0]
    return torch.zeros_like(weights).scatter(-1, position, weights).movedim(-1, 1)


def integrate_adams(
    f: Checked, order: int, y: Tensor, mesh: Mesh, *, every: int = 0, k: Tensor | None = None
) -> Tensor:
    """The outputs, (T, B, *event), as `mesh.integrate`."""
    rk4 = TABLEAUS["rk4"]
    steps, times = mesh.clocks(rk4, y)
    begin_adams = min(order - 1, mesh.steps)
    wide = mesh.points if mesh.points.ndim == 2 else mesh.points[:, None]
    dtype = steps[0].dtype if steps else y.dtype
    predictor = _weights(wide, begin_adams, 0, order).to(dtype) if begin_adams < mesh.steps else wide
    corrector = _weights(wide, begin_adams, 1, order).to(dtype) if begin_adams < mesh.steps else wide
    first = y

    def combined(y: Tensor, h: Tensor, weights: Tensor, slopes: list[Tensor]) -> Tensor:
        total = y.to(dtype)
        for weight, k in zip(weights, slopes):
            total = total + column((h * weight).expand(y.shape[0]), y) * k.to(dtype)
        return total.to(y.dtype)

    def stretch(y: Tensor, slopes: list[Tensor], begin: int, end: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        found = []
        for i in range(begin, end):
            slopes = slopes or [f(times[i][0], y)]
            if i < begin_adams:
                y, _ = rk_stages(f, rk4, times[i], y, steps[i], slopes[0], slope=False)
            else:
                j = i - begin_adams
                guess = combined(y, steps[i], predictor[j], slopes)
                new = f(times[i][-1], guess)
                y = combined(y, steps[i], corrector[j], [new, *slopes])
            if i + 1 < mesh.steps:
                slopes = [f(times[i][-1], y), *slopes][:order]
            if mesh.outputs[i + 1]:
                found.append(y)
        return y, slopes, found

    y, pieces = in_stretches(stretch, f, y, [] if k is None else [k], mesh.steps, every)
    return mesh.gather(first, y, pieces)
