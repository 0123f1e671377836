"""`solve_ivp`: one initial value problem a row, with status, statistics, dense output and events; and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...ops.describe import described
from ...ops.dtypes import state_dtype
from ...ops.modes import forward_or_functional, mapped, no_tangents, transformed
from .adams import integrate_adams
from .adaptive import solve_adaptive
from .adjoint import Adjoint, Backsolve, Recompute, adjoint_for
from .checked import Checked, Reused
from .control import Status
from .dense import Dense
from .events import Event, Record, root_with_gradient
from .mesh import differentiating, integrate
from .methods import ADAMS, tableau
from .stages import column
from .stepping import Adaptive, Fixed, Stepping, stepping_for
from .tableaus import Tableau
from .times import check_order, clock_times
from .unexpected import unexpected

__all__ = ["Solution", "SolverError", "solve_ivp"]


class SolverError(RuntimeError):
    """Some rows did not reach their end; `solution` holds what there is, with a status for every row."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        status = solution.status
        failed = (status > Status.EVENT).nonzero()[:, 0]
        causes = ", ".join(sorted({Status(int(s)).name for s in status[failed]}))
        some = ", ".join(map(str, failed[:5].tolist())) + (", ..." if failed.numel() > 5 else "")
        super().__init__(
            f"{failed.numel()} of {status.numel()} rows did not reach their last time ({causes}; rows {some}); "
            "this error's `solution` has what was reached and every row's status"
        )


@dataclass
class Solution:
    """The rows' solutions.

    t: the times asked for, (T,) or (B, T). y: (T, B, *event), NaN where a row did not get to. status: (B,) of `Status`.
    reached: (B,), the last time of every row. attempts, accepted, evaluations: (B,), steps tried and taken, and calls
    of the field that the row needed. dense: the solution as a function of time, if asked for. event_t, event_y,
    event_index: (B,), (B, *event), (B,) of the terminal event that stopped a row (NaN, NaN, -1 for the others);
    records: those of the other events.
    """

    t: Tensor
    y: Tensor
    status: Tensor
    reached: Tensor
    attempts: Tensor
    accepted: Tensor
    evaluations: Tensor
    dense: Dense | None = None
    event_t: Tensor | None = None
    event_y: Tensor | None = None
    event_index: Tensor | None = None
    records: list[Record] = field(default_factory=list)

    @property
    def success(self) -> bool:
        """Whether every row reached its last time or a terminal event."""
        return bool((self.status <= Status.EVENT).all())


def solve_ivp(
    f: Callable[[Tensor, Tensor], Tensor],
    y0: Tensor,
    t: Tensor | Sequence[float],
    *,
    method: str = "dopri5",
    stepping: Stepping | None = None,
    events: Event | Sequence[Event] = (),
    dense: bool = False,
    adjoint: Adjoint | None = None,
    **others: Any,
) -> Solution:
    """Solve dy/dt = f(t, y), y(t_0) = y0 for every row, each with steps of its own.

    The answer says row by row how it went; a row that cannot go on keeps what it reached. Adaptive steps land exactly
    on the last time, and take the times between from the method's own polynomial.

    Args:
        f: f(t, y) -> slope, shaped as y. t is 0-d where all rows are at one time, else (B, 1, ..., 1), so that it
            broadcasts against y; float32 (float64 beside a float64 y). It may answer in the same memory every time,
            and leaves t and y as they are.
        y0: (B, *event), floating point. All of a row shares its steps.
        t: (T,) times for all rows or (B, T) of their own, rising or falling, repetitions allowed, the first where y0
            is. Differentiable.
        method: a name in `METHODS`. Those that estimate their error take adaptive or fixed steps ("heun2", "bosh3",
            "dopri5", "tsit5", "dopri8", ...), the others fixed ones ("euler", "midpoint", "rk4", which is the 3/8 rule,
            "adams2" to "adams5", ...).
        stepping: `Adaptive(rtol=..., atol=...)`, or `Fixed(steps)` from each time to the next; what the method can, if
            not given.
        events: changes of sign to stop at or to note (adaptive steps, or those of `Fixed(step_size=...)`).
        dense: keep the solution as a function of time.
        adjoint: how the gradient is made: `Recompute()`, if not given, or `Backprop()`.

    Raises:
        ValueError, TypeError: arguments that do not fit; a field whose answer has another shape than y, or that
            changes t or y in place.
        RuntimeError: in the backward pass of `Recompute`, where steps computed again do not come to where they came:
            something that the field depends on has been changed in between. Parameters that `functional_call` or an
            assignment put elsewhere stand there again for it.

    Cost: `Solution.evaluations`; a gradient costs the accepted steps twice more and their backward (`Recompute`).
    Sources: Hairer, Norsett, Wanner 1993, II; Dormand, Prince 1980; Tsitouras 2011; Prince, Dormand 1981; Chen et al.
    2018 (arXiv:1806.07366).

    >>> y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    >>> solution = solve_ivp(lambda t, y: -y, y0, [0.0, 1.0])
    >>> solution.y[-1, :, 0], solution.status.tolist()
    (tensor([0.3679, 0.7358], dtype=torch.float64), [0, 0])
    """
    if others:
        raise unexpected("solve_ivp", others)
    if not callable(f):
        raise TypeError(f"f: expected a function of (t, y); got {described(f)}")
    adams = ADAMS.get(method)
    table = tableau("rk4" if adams else method)
    stepping = stepping_for(method, stepping)
    every = _every(adjoint)
    if not isinstance(y0, Tensor) or not y0.is_floating_point() or y0.ndim < 1:
        raise TypeError(f"y0: expected a floating-point tensor (B, *event); got {described(y0)}")
    times = clock_times(t, y0)
    if dense:
        y0 = y0.clone()  # what the caller does to his own later is not the solution's,
    elif not y0.requires_grad and not transformed():
        y0 = y0.detach()  # and what a field asks of its state, such as a gradient, not the caller's
    listed = [events] if isinstance(events, Event) or not isinstance(events, Iterable) else list(events)
    if any(not isinstance(event, Event) for event in listed):
        raise TypeError(f"events: expected an Event, or several of them; got {described(events)}")
    if isinstance(stepping, Fixed):
        if adams and (dense or listed):
            raise ValueError("dense, events: expected a Runge-Kutta method; Adams methods have no dense output")
        if not listed:
            return _apart(Checked(f), _fixed, table, adams, y0, times, stepping, every, dense)
        table, stepping = _as_adaptive(table, stepping)
    if (stepping.compact and (listed or dense)) or (stepping.compile and listed):
        unfit = (
            "compile: expected no events" if stepping.compile else "compact: expected neither events nor dense output"
        )
        raise ValueError(f"{unfit} beside it")
    return _apart(Checked(f), _adaptive, table, y0, times, stepping.of_state(y0), listed, dense, every)


def _apart(f: Checked, solve: Callable[..., Solution], *arguments: Any) -> Solution:
    """`solve(f, *arguments)`, once more with copies of the slopes where they share memory."""
    try:
        return solve(f, *arguments)
    except Reused:
        f.copies = True
    return solve(f, *arguments)


def _every(adjoint: Adjoint | None) -> int:
    """Steps between two checkpoints; 0 for none, -1 for the root of the number of steps."""
    adjoint = adjoint_for(adjoint)
    if isinstance(adjoint, Backsolve):
        raise ValueError("adjoint: expected Recompute() or Backprop(); got Backsolve(), which is of odeint")
    return adjoint.every or -1 if isinstance(adjoint, Recompute) else 0


def _root(every: int, steps: int) -> int:
    return math.isqrt(max(steps - 1, 0)) + 1 if every < 0 else every


# ---- fixed steps ---------------------------------------------------------------------------------------------------


def _fixed(
    f: Checked, table: Tableau, adams: int | None, y0: Tensor, times: Tensor, stepping: Fixed, every: int, dense: bool
) -> Solution:
    mesh = stepping.mesh(times)
    output = Dense(table) if dense else None
    every = _root(every, mesh.steps) if every > 0 or mesh.steps > 1 else 0
    k = None
    if every and torch.is_grad_enabled() and mesh.steps and not transformed():
        start = mesh.points[0].to(state_dtype(y0))
        k, inside = differentiating(f, column(start, y0) if start.ndim else start, y0)
        every = 0 if inside else every
        if k.requires_grad or y0.requires_grad or times.requires_grad or mesh.perturb:
            k = None  # its graph is gone, or it is of another time
    if adams:
        y = integrate_adams(f, adams, y0, mesh, every=every, k=k)
        started = min(adams - 1, mesh.steps)
        evaluations = started * table.evaluations + 2 * (mesh.steps - started)
    else:
        y = integrate(f, table, y0, mesh, every=every, dense=output, k=k)
        evaluations = mesh.steps * (table.evaluations + (len(table.extra) if dense else 0))
    rows = y0.shape[0]
    finite = y[-1].reshape(rows, y0[:1].numel()).isfinite().all(1)
    count = torch.full((rows,), mesh.steps, device=y0.device)
    return Solution(
        times,
        y,
        torch.where(finite, int(Status.SUCCESS), int(Status.NON_FINITE)),
        times[..., -1].expand(rows),
        count,
        count,
        torch.full_like(count, evaluations),
        output,
    )


def _as_adaptive(table: Tableau, stepping: Fixed) -> tuple[Tableau, Adaptive]:
    """Steps whose error is zero, none of them longer: events are looked for in adaptive solves."""
    size = stepping.step_size
    if size is None or stepping.perturb:
        raise ValueError(f"events: expected adaptive steps, or Fixed(step_size=...) alone; got {stepping}")
    table = replace(table, error=(0.0,) * table.stages, error_order=1, rough=None)
    return table, Adaptive(dt_min=size, dt_max=size, first_step=size)


# ---- adaptive ------------------------------------------------------------------------------------------------------


def _adaptive(
    f: Checked,
    table: Tableau,
    y0: Tensor,
    times: Tensor,
    control: Adaptive,
    events: list[Event],
    dense: bool,
    every: int,
) -> Solution:
    rows = y0.shape[0]
    _check_unmapped(y0, times)
    wide = times.expand(rows, -1) if times.ndim == 1 else times
    known = wide.detach()
    if rows:
        check_order(times.detach())
    start = column(known[:, 0].to(state_dtype(y0)), y0)
    if torch.is_grad_enabled() and not forward_or_functional():
        k, inside = differentiating(f, start, y0)
        every = 0 if inside else every
    else:
        k = f(start, y0)
        _check_unmapped(k)
    wanted = k.requires_grad or y0.requires_grad or times.requires_grad
    differentiable = forward_or_functional() or (torch.is_grad_enabled() and wanted)
    output = Dense(table) if dense else None
    with torch.no_grad(), no_tangents():
        trace = solve_adaptive(
            f,
            table,
            y0.detach(),
            known,
            control,
            k=k.detach(),
            record=differentiable,
            dense=None if differentiable else output,
            events=events,
        )
    y, fired = trace.y, trace.events
    event_t, event_y = (fired.t, fired.y) if fired else (None, None)
    records = fired.records if fired else []
    if differentiable:
        slots = fired.slots() if fired else None
        mesh = trace.mesh(wide, slots[0].t() if slots else None)
        y = integrate(f, table, y0, mesh, every=_root(every, mesh.steps), dense=output)
        if slots:
            y, states = y[: times.shape[-1]], y[times.shape[-1] :]
            found = [_event_gradients(events, f, *slot) for slot in zip(slots[0], states, slots[1])]
            event_t, event_y = found[0]
            moved_t, moved_y = (torch.stack(part) for part in zip(*found))
            records = [replace(record, t=moved_t[place, record.rows], y=moved_y[place, record.rows])
                       for record, place in zip(records, slots[2])]  # fmt: skip
    clock = trace.clock
    return Solution(
        times,
        y,
        clock.status,
        clock.t,
        clock.attempts,
        clock.accepted,
        trace.evaluations,
        output,
        event_t,
        event_y,
        fired.index if fired else None,
        records,
    )


def _check_unmapped(*tensors: Tensor) -> None:
    if any(map(mapped, tensors)):
        raise NotImplementedError(
            "an adaptive solve looks at its errors, which vmap does not let it: expected the mapped dimension among "
            "the rows of y0, where every row has steps of its own, or fixed steps"
        )


def _event_gradients(events: list[Event], f: Checked, t: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Rows without an event stay NaN and take no part, so that their NaN does not reach the parameters."""
    result_t, result_y = t, y
    for number, event in enumerate(events):
        here = index == number
        if not bool(here.any()):
            continue
        safe_t, safe_y = torch.where(here, t, 0), torch.where(column(here, y), y, 0)
        moved_t, moved_y = root_with_gradient(event, f, safe_t, safe_y, here)
        result_t = torch.where(here, moved_t, result_t)
        result_y = torch.where(column(here, y), moved_y, result_y)
    return result_t, result_y
