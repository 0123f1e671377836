"""The continuous adjoint: the gradient as the solution of another equation, backward in time, in constant memory.

a' = -a^T df/dy with a = dL/dy, and dL/dtheta' = -a^T df/dtheta. State and a step together under error control, row by
row; the parameters' integral follows their accepted steps and has no part in the control (the "seminorm"). It is off by
about the solver's tolerance; the discrete gradient of `solve_ivp` is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ...ops.dtypes import state_dtype
from ...ops.recompute import Standing
from .adaptive import solve_adaptive
from .checked import Checked
from .control import Status
from .stages import column
from .stepping import Adaptive
from .tableaus import Tableau

__all__ = ["backsolve"]


def backsolve(
    f: Checked,
    table: Tableau,
    y0: Tensor,
    times: Tensor,
    control: Adaptive,
    params: Sequence[Tensor],
    solve: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """`solve(y0, times)`, (T, B, *event), differentiable in y0, times (B, T) and params by the continuous adjoint."""
    return _Backsolve.apply(f, table, control, solve, y0, times, *params)


class _Reverse:
    """The augmented equation of (y, a) side by side, which remembers the slopes of a step for the parameters' sake."""

    def __init__(self, f: Checked, table: Tableau, y: Tensor, params: Sequence[Tensor]) -> None:
        self.f, self.table, self.shape, self.params = f, table, y.shape, params
        self.size = y.shape[1:].numel()
        self.calls: list[tuple[Tensor, Tensor]] = []  # slope with its graph, a
        self.gradients = [torch.zeros_like(p) for p in params]

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        flat_y, a = state.split(self.size, 1)
        a = a.reshape(self.shape)
        t = t.reshape(-1, *[1] * (len(self.shape) - 1))
        with torch.enable_grad():
            y = flat_y.reshape(self.shape).detach().requires_grad_()
            slope = self.f(t, y)
            if not slope.requires_grad:
                return torch.cat([_flat(slope), torch.zeros_like(flat_y)], 1)
            (pulled,) = torch.autograd.grad(slope, y, a, retain_graph=bool(self.params), allow_unused=True)
        if self.params:
            self.calls.append((slope, a))
        pulled = torch.zeros_like(y) if pulled is None else pulled
        return torch.cat([_flat(slope.detach()), -_flat(pulled)], 1)

    def after_step(self, t: Tensor, h: Tensor, good: Tensor, state: Tensor) -> None:
        """Add what the accepted rows' step brings; `state` is where the next step starts."""
        if not self.calls:
            return
        # between the first slope and the others may lie the call that chose the first step
        stages = [self.calls[0], *self.calls[-self.table.evaluations :]]
        step = torch.where(good, h, 0)
        for (slope, a), weight in zip(stages, self.table.b):
            if weight:
                cotangent = -weight * column(step.to(state_dtype(a)), a).to(a.dtype) * a
                found = torch.autograd.grad(slope, self.params, cotangent, retain_graph=True, allow_unused=True)
                for total, part in zip(self.gradients, found):
                    if part is not None:
                        total += part
        self.calls = stages[-1:]
        if not bool((good | (h == 0)).all()):  # some rows keep their first slope: it is evaluated anew, in one graph
            self.calls = []
            self(t.to(state_dtype(state)), state)


def _flat(rows: Tensor) -> Tensor:
    return rows.flatten(1) if rows.ndim > 1 else rows[:, None]


def _of_both(control: Adaptive, y: Tensor) -> Adaptive:
    """The control of y and a side by side, (B, 2 D), from that of y."""
    if control.plain:
        return control
    wide = y.shape[1:]

    def twice(tolerance: Any) -> Any:
        if not isinstance(tolerance, Tensor):
            return tolerance
        rows = _flat(tolerance.expand(torch.broadcast_shapes(tolerance.shape, (1, *wide))))
        return torch.cat([rows, rows], 1)

    def larger(error: Tensor) -> Tensor:
        return torch.maximum(*(norm(part.reshape(-1, *wide)) for part in error.chunk(2, 1)))  # type: ignore[misc]

    norm = control.norm
    return replace(control, rtol=twice(control.rtol), atol=twice(control.atol), norm=larger if norm else None)


class _Backsolve(Function):
    @staticmethod
    def forward(
        ctx: Any, f: Checked, table: Tableau, control: Adaptive, solve: Callable[..., Tensor], y0: Tensor,
        times: Tensor, *params: Tensor,
    ) -> Tensor:  # fmt: skip
        with torch.no_grad():
            ys = solve(y0, times)
        ctx.save_for_backward(ys, times, *params)
        ctx.solver = f, table, control
        ctx.standing = Standing(f.f)
        return ys

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise NotImplementedError("backsolve has no second derivative: use adjoint=Recompute() instead")
        with ctx.standing:
            return _Backsolve._solved(ctx, *grads)

    @staticmethod
    def _solved(ctx: Any, dys: Tensor) -> Any:
        ys, times, *params = ctx.saved_tensors
        f, table, control = ctx.solver
        control = _of_both(control, ys[0])
        wanted = [p for p in params if p.requires_grad]
        reverse = _Reverse(f, table, ys[0], wanted)
        last = times.shape[1] - 1
        dt = torch.zeros_like(times)
        a = torch.zeros_like(ys[0])
        for j in range(last, -1, -1):
            if ctx.needs_input_grad[5]:  # dL/dt = a^T f at every output, less for the start
                with torch.no_grad():
                    slope = f(column(times[:, j].to(state_dtype(a)), a), ys[j])
                dt[:, j] += _flat(dys[j] * slope).sum(1)
            a = a + dys[j]
            if j == 0:
                break
            reverse.calls = []
            span = times[:, j - 1 : j + 1].flip(1)
            state = torch.cat([_flat(ys[j]), _flat(a)], 1)  # y starts anew from what was found
            trace = solve_adaptive(Checked(reverse), table, state, span, control, after_step=reverse.after_step)
            if bool((trace.clock.status != Status.SUCCESS).any()):
                names = sorted({Status(int(s)).name for s in trace.clock.status})
                raise RuntimeError(f"backsolve: the adjoint equation could not be solved ({', '.join(names)})")
            a = trace.last[:, reverse.size :].reshape(a.shape)
        if ctx.needs_input_grad[5]:
            with torch.no_grad():
                slope = f(column(times[:, 0].to(state_dtype(a)), a), ys[0])
            dt[:, 0] -= _flat(a * slope).sum(1)
        found = iter(reverse.gradients)
        return None, None, None, None, a, dt, *(next(found) if p.requires_grad else None for p in params)
