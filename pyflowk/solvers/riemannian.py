"""Equations on a manifold: steps in tangent spaces, and states that stay on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..manifolds import Manifold
from .ode.adjoint import Adjoint
from .ode.checked import Checked
from .ode.mesh import Mesh
from .ode.methods import TABLEAUS
from .ode.odeint import Packing, odeint
from .ode.stages import column, rk_stages
from .ode.stepping import Fixed, Stepping, stepping_for
from .ode.tableaus import Tableau
from .ode.times import clock_times

__all__ = ["manifold_odeint"]


def manifold_odeint(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[float],
    manifold: Manifold,
    *,
    method: str = "rk4",
    stepping: Stepping | None = None,
    adjoint: Adjoint | None = None,
) -> Any:
    r"""The states at the times t of the solution of dy/dt = f(t, y) on a manifold that starts in y0 at t[0].

    f is asked at points alone, and of what it answers the tangent part is taken. Fixed steps of a Runge-Kutta method
    end on the manifold: Euler's along the geodesic, :math:`y \leftarrow \exp_y(h f)`, those of several stages by
    projection, :math:`y \leftarrow \pi(y + h \sum_i b_i k_i)`, which keeps the method's order. Other methods and
    adaptive steps solve the equation of :math:`f(t, \pi(y))`, whose solution is the same, and project what they give.

    Args:
        f: f(t, y) -> slope as for :func:`odeint`.
        y0: (B, \*shape), points; or a tuple, the first of which are points, and the others (B, \*event) are integrated
            beside them.
        t: (T,) or (B, T) times that rise or fall.
        method, stepping, adjoint: as for :func:`odeint`; ``stepping`` are `Fixed(steps)` from each time to the next.
            Gradients of fixed Runge-Kutta steps are made by autograd.

    Returns:
        (T, B, \*shape), or a tuple of such.

    Raises:
        ValueError, TypeError: arguments or answers that do not fit.
        SolverError: adaptive steps that cannot go on.

    Cost: the method's evaluations of f, and a projection for each. Hairer, Lubich, Wanner, 2006, IV.4; Chen and Lipman,
    2024, arXiv:2302.03660.

    >>> import math
    >>> import torch
    >>> from pyflowk.manifolds import Sphere
    >>> from pyflowk.solvers import Fixed, manifold_odeint
    >>> east = lambda t, y: torch.stack((-y[:, 1], y[:, 0], 0 * y[:, 2]), 1)
    >>> start, quarter = torch.tensor([[0.6, 0.0, 0.8]]), [0.0, math.pi / 2]
    >>> manifold_odeint(east, start, quarter, Sphere((3,)), stepping=Fixed(20))[-1].abs().round(decimals=4)
    tensor([[0.0000, 0.6000, 0.8000]])
    """
    alone = isinstance(y0, Tensor)
    parts = (y0,) if alone else tuple(y0)
    packing, size = Packing(parts, True), math.prod(manifold.shape)
    if tuple(parts[0].shape[1:]) != manifold.shape:
        raise ValueError(f"y0: expected points (B, *{manifold.shape}), got {tuple(parts[0].shape)}")
    asked = packing.field((lambda t, y: (f(t, *y),)) if alone else f)

    def points(y: Tensor) -> Tensor:
        return y[:, :size].reshape(y.shape[0], *manifold.shape)

    def replaced(y: Tensor, x: Tensor) -> Tensor:
        return torch.cat((x.reshape(y.shape[0], size), y[:, size:]), 1)

    def settled(y: Tensor) -> Tensor:
        return replaced(y, manifold.project(points(y)))

    def field(t: Tensor, y: Tensor) -> Tensor:
        x = manifold.project(points(y))
        slope = asked(t, replaced(y, x))
        return replaced(slope, manifold.tangent(x, points(slope)))

    def along(y: Tensor, step: Tensor) -> Tensor:
        return replaced(y + step, manifold.exp(points(y), points(step)))

    stepping, y = stepping_for(method, stepping), packing.pack(parts)
    if method in TABLEAUS and isinstance(stepping, Fixed):
        states = _steps(field, y, stepping.mesh(clock_times(t, y)), TABLEAUS[method], settled, along)
    else:
        states = odeint(field, y, t, method=method, stepping=packing.stepping(stepping), adjoint=adjoint)
        states = torch.stack([settled(state) for state in states])
    found = packing.unpack(states)
    return found[0] if alone else found


def _steps(
    field: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    mesh: Mesh,
    table: Tableau,
    settled: Callable[[Tensor], Tensor],
    along: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The states (T, B, D) of a mesh, each step ending on the manifold."""
    f, first, states = Checked(field), y, []
    steps, times = mesh.clocks(table, y)
    for i, (h, now) in enumerate(zip(steps, times, strict=True)):
        ended, slopes = rk_stages(f, table, now, y, h, f(now[0], y), slope=False)
        y = settled(along(y, column(h, y) * slopes[0]) if len(slopes) == 1 else ended)
        if mesh.outputs[i + 1]:
            states.append(y)
    return mesh.gather(first, y, states)
