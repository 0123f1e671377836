"""`solve_ivp`: one initial value problem a row, with status, statistics, dense output and events; and its gradient."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ...ops.describe import described
from ...ops.dtypes import state_dtype
from ...ops.modes import forward_or_functional, mapped, no_tangents, transformed
from .adams import adams_order, integrate_adams
from .adaptive import solve_adaptive
from .checked import Checked, Reused
from .control import Control, Status
from .dense import Dense
from .events import Event, Record, root_with_gradient
from .mesh import Mesh, differentiating, integrate
from .stages import column, time_dtype
from .tableaus import Tableau, tableau

__all__ = ["ADJOINTS", "Solution", "SolverError", "clock_times", "fixed_mesh", "solve_ivp"]

ADJOINTS = ("checkpoint", "backprop", "backsolve")
#: what `solve_ivp` hands over to `Control`.
CONTROLS = tuple(name for name in Control.__dataclass_fields__ if name not in ("rtol", "atol"))


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
    rtol: float | Tensor = 1e-7,
    atol: float | Tensor = 1e-9,
    events: Event | Sequence[Event] = (),
    dense: bool = False,
    adjoint: str = "checkpoint",
    checkpoint_every: int | None = None,
    step_size: float | None = None,
    steps: int | None = None,
    perturb: bool = False,
    first_step: float | Tensor | None = None,
    poll: int | None = None,
    compact: bool = False,
    compile: bool = False,
    **control: Any,
) -> Solution:
    """Solve dy/dt = f(t, y), y(t_0) = y0 for every row, each with steps of its own.

    The answer says row by row how it went; a row that cannot go on keeps what it reached. Adaptive methods land exactly
    on the last time, and take the times between from the method's own polynomial.

    Args:
        f: f(t, y) -> slope, shaped as y. t is 0-d where all rows are at one time, else (B, 1, ..., 1), so that it
            broadcasts against y; float32 (float64 beside a float64 y). It may answer in the same memory every time,
            and leaves t and y as they are.
        y0: (B, *event), floating point. All of a row shares its steps.
        t: (T,) times for all rows or (B, T) of their own, rising or falling, repetitions allowed, the first where y0
            is. Differentiable.
        method: adaptive ("heun2", "bosh3", "dopri5", "tsit5", "dopri8") or with fixed steps ("euler", "midpoint",
            "ralston", "heun3", "rk4", which is the 3/8 rule, "rk4_classic", "adams2" to "adams5"); adaptive ones too
            take fixed steps if asked.
        rtol, atol: a step is accepted if the root mean square of error / (atol + rtol |y|) over the row is at most 1.
            Numbers, or tensors that broadcast against y0 (slower).
        events: changes of sign to stop at or to note (adaptive methods, or steps of `step_size`).
        dense: keep the solution as a function of time.
        adjoint: the gradient: "checkpoint", of the discrete solution with the accepted steps held fixed, memory for a
            state every `checkpoint_every` steps (default: the root of their number) and the steps between;
            "backprop", the same gradient, everything kept, also where a field takes derivatives itself;
            "backsolve" is of `odeint`.
        step_size, steps: fixed steps: the longest, or how many between one time and the next (default 1; asks nothing
            of the host).
        perturb: let a field with jumps at the ends of fixed steps be seen from within each step.
        first_step: of an adaptive solve, a number or (B,).
        poll: how many adaptive steps go between two looks of the host at the rows (default 1 on the CPU, 8 elsewhere).
        compact: let rows leave the batch when half of it has ended, which pays where an evaluation of more rows costs
            more. Only for a field that treats all rows alike, as it is then called with some of them; not with events
            or dense output.
        compile: put field, stages and control of all steps into one compiled loop (adaptive methods). Pays for cheap
            fields. On the CPU a field that is a formula in a few numbers a row (elementwise functions, small products
            and sums within the row) becomes C++ that solves row by row, each as if alone, after seconds of compiling;
            any other field a loop of torch.compile, after up to a minute, whose rows are no longer bitwise independent
            of each other. Either for each field and method, and twice for batch sizes. Results are equal to rounding;
            of a differentiated solve it is the search for the steps that is compiled. Not with events or compact.
        control: further fields of `Control`: norm, safety, shrink, grow, pid, dt_min, dt_max, max_steps.

    Raises:
        ValueError, TypeError: arguments that do not fit; a field whose answer has another shape than y, or that
            changes t or y in place.
        RuntimeError: in the backward pass of "checkpoint", where steps computed again do not come to where they came:
            something that the field depends on has been changed in between. Parameters that `functional_call` or an
            assignment put elsewhere stand there again for it.

    Cost: `Solution.evaluations`; a gradient costs the accepted steps twice more and their backward ("checkpoint").
    Sources: Hairer, Norsett, Wanner 1993, II; Dormand, Prince 1980; Tsitouras 2011; Prince, Dormand 1981; Chen et al.
    2018 (arXiv:1806.07366).

    >>> y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    >>> solution = solve_ivp(lambda t, y: -y, y0, [0.0, 1.0])
    >>> solution.y[-1, :, 0], solution.status.tolist()
    (tensor([0.3679, 0.7358], dtype=torch.float64), [0, 0])
    """
    if not callable(f):
        raise TypeError(f"f: expected a function of (t, y); got {described(f)}")
    adams = adams_order(method)
    table = tableau("rk4" if adams else method)
    if adjoint not in ("checkpoint", "backprop"):
        raise ValueError(f"adjoint: expected checkpoint or backprop; got {adjoint!r}")
    if not isinstance(y0, Tensor) or not y0.is_floating_point() or y0.ndim < 1:
        raise TypeError(f"y0: expected a floating-point tensor (B, *event); got {described(y0)}")
    if unknown := [name for name in control if name not in CONTROLS]:
        known = [name for name in inspect.signature(solve_ivp).parameters if name not in ("f", "y0", "t", "control")]
        raise TypeError(f"options: expected some of {', '.join((*known, *CONTROLS))}; got {', '.join(unknown)}")
    times = clock_times(t, y0)
    if dense:
        y0 = y0.clone()  # what the caller does to his own later is not the solution's,
    elif not y0.requires_grad and not transformed():
        y0 = y0.detach()  # and what a field asks of its state, such as a gradient, not the caller's
    field_ = Checked(f)
    listed = [events] if isinstance(events, Event) or not isinstance(events, Iterable) else list(events)
    if any(not isinstance(event, Event) for event in listed):
        raise TypeError(f"events: expected an Event, or several of them; got {described(events)}")
    if poll is not None and poll < 1:
        raise ValueError(f"poll: expected at least 1; got {poll}")
    if step_size is not None or steps is not None or table.error is None:
        if compile:
            raise ValueError("compile: expected an adaptive method; fixed steps are for torch.compile as they are")
        if adams and (dense or listed):
            raise ValueError("dense, events: expected a Runge-Kutta method; Adams methods have no dense output")
        every = _every(adjoint, checkpoint_every)
        if not listed:
            return _apart(field_, _fixed, table, adams, y0, times, step_size, steps, every, dense, perturb)
        if step_size is None or steps is not None or perturb:
            raise ValueError("events: expected an adaptive method, or fixed steps of a step_size")
        # steps whose error is zero, none of them longer
        table, first_step = replace(table, error=(0.0,) * table.stages, error_order=1), step_size
        control = {"dt_min": step_size, "dt_max": step_size, "max_steps": control.get("max_steps", 100_000)}
    elif perturb:
        raise ValueError("perturb: expected fixed steps; got an adaptive method")
    chosen = Control(rtol=rtol, atol=atol, **control)
    for name in ("rtol", "atol"):
        value = getattr(chosen, name)
        shape = value.shape if isinstance(value, Tensor) else ()
        if len(shape) > y0.ndim or any(n not in (1, m) for n, m in zip(shape[::-1], y0.shape[::-1])):
            raise ValueError(f"{name}: expected what broadcasts against {tuple(y0.shape)}; got {tuple(shape)}")
    if compact and (listed or dense or not chosen.plain):
        raise ValueError("compact: expected neither events, dense output, norm nor tolerances by element beside it")
    if compile and (listed or compact or not chosen.plain):
        what = "events" if listed else "compact" if compact else "norm or tolerances by element"
        raise ValueError(f"compile: expected no {what} beside it")
    every = _every(adjoint, checkpoint_every)
    return _apart(field_, _adaptive, table, y0, times, chosen, listed, dense, every, first_step, poll, compact, compile)


def _apart(f: Checked, solve: Callable[..., Solution], *arguments: Any) -> Solution:
    """`solve(f, *arguments)`, once more with copies of the slopes where they share memory."""
    try:
        return solve(f, *arguments)
    except Reused:
        f.copies = True
    return solve(f, *arguments)


def _every(adjoint: str, every: int | None) -> int:
    """Steps between two checkpoints; 0 for none, -1 for the root of the number of steps."""
    if every is not None and every < 1:
        raise ValueError(f"checkpoint_every: expected at least 1; got {every}")
    return 0 if adjoint == "backprop" else every or -1


def _root(every: int, steps: int) -> int:
    return math.isqrt(max(steps - 1, 0)) + 1 if every < 0 else every


def clock_times(t: Tensor | Sequence[float], y0: Tensor) -> Tensor:
    """The times on y0's device in the clock's type."""
    try:
        times = torch.as_tensor(t, dtype=None if isinstance(t, Tensor) else time_dtype(y0))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"t: expected times, (T,) or ({y0.shape[0]}, T); got {described(t)}") from error
    if times.ndim not in (1, 2) or times.shape[-1] < 1 or (times.ndim == 2 and times.shape[0] != y0.shape[0]):
        raise ValueError(f"t: expected (T,) or ({y0.shape[0]}, T) with T >= 1; got {tuple(times.shape)}")
    if not times.is_floating_point():
        raise TypeError(f"t: expected floating-point times; got {times.dtype}")
    return times.to(y0.device, time_dtype(y0))


def _check_order(times: Tensor) -> None:
    if times.ndim == 1 and not forward_or_functional():
        values = times.tolist()
        right = all(map(math.isfinite, values)) and sorted(values, reverse=values[-1] < values[0]) == values
    else:
        step = times.diff(dim=-1)
        right = bool(times.isfinite().all() & ((step >= 0).all(-1) | (step <= 0).all(-1)).all())
    if not right:
        raise ValueError("t: expected finite times that rise or fall, row by row")


# ---- fixed steps ---------------------------------------------------------------------------------------------------


def _fixed(
    f: Checked, table: Tableau, adams: int | None, y0: Tensor, times: Tensor, step_size: float | None,
    steps: int | None, every: int, dense: bool, perturb: bool,
) -> Solution:  # fmt: skip
    mesh = fixed_mesh(times, step_size, steps)
    mesh.perturb = perturb
    output = Dense(table) if dense else None
    every = _root(every, mesh.steps) if every > 0 or mesh.steps > 1 else 0
    k = None
    if every and torch.is_grad_enabled() and mesh.steps and not transformed():
        start = mesh.points[0].to(state_dtype(y0))
        k, inside = differentiating(f, column(start, y0) if start.ndim else start, y0)
        every = 0 if inside else every
        if k.requires_grad or y0.requires_grad or times.requires_grad or perturb:
            k = None  # its graph is gone, or it is of another time
    if adams:
        y = integrate_adams(f, adams, y0, mesh, every=every, k=k)
        started = min(adams - 1, mesh.steps)
        evaluations = started * table.evaluations + 2 * (mesh.steps - started)
    else:
        y = integrate(f, table, y0, mesh, every=every, dense=output, k=k)
        evaluations = mesh.steps * table.evaluations
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


def fixed_mesh(times: Tensor, step_size: float | None, steps: int | None) -> Mesh:
    """Equal steps from each time to the next: `steps` of them, or as few as are no longer than `step_size`."""
    count = times.shape[-1]
    if step_size is not None and steps is not None:
        raise ValueError(f"steps, step_size: expected one of them; got {steps} and {step_size}")
    if step_size is None:
        if steps is not None and (not isinstance(steps, Real) or steps < 1 or steps != int(steps)):
            raise ValueError(f"steps: expected at least 1, a whole number; got {steps!r}")
        each = [int(steps or 1)] * (count - 1)
    else:
        if not isinstance(step_size, (Real, Tensor)) or not step_size > 0:
            raise ValueError(f"step_size: expected a positive number; got {step_size!r}")
        _check_order(times)
        longest = times.detach().diff(dim=-1).abs()
        longest = longest.amax(0) if longest.ndim == 2 and longest.shape[0] else longest.reshape(-1, count - 1)[0]
        each = [math.ceil(length / step_size - 1e-9) for length in longest.tolist()]
    moved = times.movedim(-1, 0)
    points, outputs = [], [[0]]
    for j, n in enumerate(each):
        start, end = moved[j], moved[j + 1]
        points += [start + (end - start) * (i / n) for i in range(n)]
        outputs += [[] for _ in range(n)]
        outputs[-1].append(j + 1)
    return Mesh(torch.stack([*points, moved[-1]]), outputs)


# ---- adaptive ------------------------------------------------------------------------------------------------------


def _adaptive(
    f: Checked, table: Tableau, y0: Tensor, times: Tensor, control: Control, events: list[Event], dense: bool,
    every: int, step: float | Tensor | None, poll: int | None, compact: bool, compiled: bool,
) -> Solution:  # fmt: skip
    rows = y0.shape[0]
    _check_unmapped(y0, times)
    wide = times.expand(rows, -1) if times.ndim == 1 else times
    known = wide.detach()
    if rows:
        _check_order(times.detach())
    start = column(known[:, 0].to(state_dtype(y0)), y0)
    if torch.is_grad_enabled() and not forward_or_functional():
        k, inside = differentiating(f, start, y0)
        every = 0 if inside else every
    else:
        k = f(start, y0)
        _check_unmapped(k)
    wanted = k.requires_grad or y0.requires_grad or times.requires_grad
    differentiable = forward_or_functional() or (torch.is_grad_enabled() and wanted)
    if step is not None:
        step = torch.as_tensor(step, dtype=known.dtype, device=known.device).abs()
        if step.shape not in ((), (rows,)) or not bool((step > 0).all()):
            raise ValueError(f"first_step: expected a number or ({rows},) of them, none zero or NaN; got {step}")
        step = step.expand(rows)
        step = torch.where(known[:, -1] < known[:, 0], -step, step)
    output = Dense(table) if dense else None
    with torch.no_grad(), no_tangents():
        trace = solve_adaptive(
            f,
            table,
            y0.detach(),
            known,
            control,
            k=k.detach(),
            step=step,
            poll=1 if compiled else poll or (1 if y0.device.type == "cpu" else 8),
            record=differentiable,
            dense=None if differentiable else output,
            events=events,
            compact=compact,
            compiled=compiled,
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
