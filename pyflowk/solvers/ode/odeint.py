"""`odeint`, the short form, as it is known from torchdiffeq: states at times, of tuples of states too, or an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...ops.describe import described
from .adjoint import Adjoint, Backsolve
from .backsolve import backsolve
from .checked import Checked
from .methods import tableau
from .solve import Solution, SolverError, solve_ivp
from .stepping import Adaptive, Stepping, stepping_for
from .times import clock_times
from .unexpected import unexpected

__all__ = ["odeint"]

State = Tensor | tuple[Tensor, ...]


class Packing:
    """A tuple of states as one tensor and back: rows side by side, (B, sum of event sizes), or all of it one row."""

    def __init__(self, y0: State, rows: bool) -> None:
        self.single = isinstance(y0, Tensor)
        parts: tuple[Tensor, ...] = tuple(y0) if isinstance(y0, (tuple, list)) else (y0,)
        if not parts or not all(isinstance(p, Tensor) and (p.is_floating_point() or p.is_complex()) for p in parts):
            raise TypeError(
                f"y0: expected a floating-point or complex tensor, or a flat tuple of them; got {described(y0)}"
            )
        self.shapes = [p.shape for p in parts]
        self.dtypes = [p.dtype for p in parts]
        self.rows = rows
        if rows and (any(p.ndim < 1 for p in parts) or any(p.shape[0] != parts[0].shape[0] for p in parts)):
            raise ValueError(
                f"y0: expected (B, *event) states of one batch size; got {', '.join(map(str, map(tuple, self.shapes)))}"
            )
        self.as_is = self.single and rows and not parts[0].is_complex()
        self.sizes = [(s[1:] if rows else s).numel() * (1 + d.is_complex) for s, d in zip(self.shapes, self.dtypes)]

    def pack(self, y: State) -> Tensor:
        """One tensor (B, D)."""
        if self.as_is:
            return y  # type: ignore[return-value]
        parts: tuple[Any, ...] = tuple(y) if isinstance(y, (tuple, list)) and not self.single else (y,)
        if len(parts) != len(self.shapes) or any(not isinstance(p, Tensor) for p in parts):
            what = "a tensor" if self.single else f"a tuple of {len(self.shapes)} tensors"
            shapes = ", ".join(map(str, map(tuple, self.shapes)))
            raise TypeError(f"field: expected {what} of the state's shape {shapes}; got {described(y)}")
        flat = []
        for part, shape, dtype, size in zip(parts, self.shapes, self.dtypes, self.sizes):
            if part.shape != shape:
                raise ValueError(f"field: expected the state's shape {tuple(shape)}; got {tuple(part.shape)}")
            if part.is_complex() and not dtype.is_complex:
                raise TypeError(f"field: expected a real slope, as the state is; got {part.dtype}")
            part = torch.view_as_real(part.to(dtype).resolve_conj()) if dtype.is_complex else part
            flat.append(part.reshape(shape[0] if self.rows else 1, size))
        return flat[0] if len(flat) == 1 else torch.cat(flat, 1)

    def unpack(self, y: Tensor) -> State:
        """Of (..., B, D): each state with its own shape, the leading dimensions kept."""
        if self.as_is:
            return y
        lead, parts = y.shape[:-2], []
        for part, shape, dtype in zip(y.split(self.sizes, -1), self.shapes, self.dtypes):
            if dtype.is_complex:
                parts.append(torch.view_as_complex(part.reshape((*lead, *shape, 2))))
            else:
                parts.append(part.reshape((*lead, *shape)))
        return parts[0] if self.single else tuple(parts)

    def field(self, f: Callable[..., State]) -> Callable[[Tensor, Tensor], Tensor]:
        """f on the packed state. t is shaped to broadcast against the first state; 0-d where all is one row."""
        if self.as_is:
            return f  # type: ignore[return-value]
        first = self.shapes[0]

        def packed(t: Tensor, y: Tensor) -> Tensor:
            if t.ndim:
                t = t.reshape(-1, *[1] * (len(first) - 1)) if self.rows else t.reshape(())
            return self.pack(f(t, self.unpack(y)))

        packed.__wrapped__ = f  # type: ignore[attr-defined]
        return packed

    def tolerance(self, name: str, value: Any) -> Any:
        """A tolerance of the packed state: a number, a tensor like the state, or one of either for each state."""
        if self.as_is or isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.ndim == 0):
            return value
        values = (value,) if self.single else tuple(value)
        if len(values) != len(self.shapes):
            raise ValueError(f"{name}: expected a number for each of {len(self.shapes)} states; got {len(values)}")
        flat = []
        for v, shape, dtype in zip(values, self.shapes, self.dtypes):
            wide = torch.as_tensor(v, dtype=torch.float64).expand(shape[1:] if self.rows else shape)
            wide = wide[..., None].expand(*wide.shape, 2) if dtype.is_complex else wide
            flat.append(wide.reshape(1, -1))
        return torch.cat(flat, 1)

    def stepping(self, stepping: Stepping) -> Stepping:
        """What is for states as it is for the packed state."""
        if self.as_is or not isinstance(stepping, Adaptive):
            return stepping
        rtol, atol = self.tolerance("rtol", stepping.rtol), self.tolerance("atol", stepping.atol)
        return replace(stepping, rtol=rtol, atol=atol, norm=self.norm(stepping.norm) if stepping.norm else None)

    def norm(self, norm: Callable[[State], Tensor]) -> Callable[[Tensor], Tensor]:
        """A norm of states as one of the packed state."""
        return norm if self.as_is else lambda error: norm(self.unpack(error)).reshape(-1)


def odeint(
    f: Callable[..., Any],
    y0: State,
    t: Tensor | Sequence[float],
    *,
    method: str = "dopri5",
    rtol: Any = None,
    atol: Any = None,
    stepping: Stepping | None = None,
    adjoint: Adjoint | None = None,
    rows: bool = True,
    **others: Any,
) -> Any:
    """The states at the times t of the solution of dy/dt = f(t, y) that starts in y0 at t[0].

    The short form of `solve_ivp`, also for tuples of states and complex ones. Every row of y0 steps by itself, so its
    result does not depend on the rest of the batch; with rows=False the whole state is one system with one step and a
    0-d time, as in torchdiffeq.

    Args:
        f: f(t, y) -> slope, shaped as y (a tuple for a tuple). t is 0-d where all rows are at one time (fixed steps,
            rows=False), else (B, 1, ..., 1), so that it broadcasts against y (against the first state of a tuple);
            whatever the steps, t.reshape(-1, 1).expand(len(y), 1) is the column that a network sees beside y (B, D).
        y0: (B, *event), or a tuple of such states of one batch size; with rows=False of any shapes. Complex numbers
            are solved for as pairs.
        t: (T,), or (B, T) for times of each row's own; rising or falling, repetitions allowed. Differentiable.
        method, stepping: as for `solve_ivp`; a `norm` is of what the field returns, scaled.
        rtol, atol: short for `stepping=Adaptive(rtol=..., atol=...)`.
        adjoint: how gradients are made: `Recompute()`, if not given, `Backprop()`, or with adaptive steps
            `Backsolve()`, in constant memory.

    Returns:
        (T, B, *event), or a tuple of them.

    Raises:
        SolverError: a row of an adaptive solve cannot go on or ran out of steps; its `solution` has the partial result.
        ValueError, TypeError: arguments or answers of the field that do not fit.

    Cost and sources: as `solve_ivp`.

    >>> y0 = torch.ones(2, 3)
    >>> odeint(lambda t, y: -y, y0, [0.0, 0.5, 1.0], rtol=1e-5, atol=1e-5).shape
    torch.Size([3, 2, 3])
    >>> x, level = odeint(lambda t, s: (-s[0], s[0].sum(1)), (y0, torch.zeros(2)), [0.0, 1.0], method="rk4")
    >>> x.shape, level.shape
    (torch.Size([2, 2, 3]), torch.Size([2, 2]))
    """
    if others:
        raise unexpected("odeint", others)
    packing = Packing(y0, rows)
    field, state = packing.field(f), packing.pack(y0)
    given = {name: value for name, value in (("rtol", rtol), ("atol", atol)) if value is not None}
    if given and stepping is not None:
        raise ValueError(f"{', '.join(given)}: expected within stepping=Adaptive(...); got beside {stepping}")
    stepping = packing.stepping(stepping_for(method, Adaptive(**given) if given else stepping))
    if isinstance(adjoint, Backsolve):
        return packing.unpack(_backsolve(f, field, packing, state, t, method, stepping, adjoint))
    return packing.unpack(_reached(solve_ivp(field, state, t, method=method, stepping=stepping, adjoint=adjoint)).y)


def _backsolve(
    f: object, field: Callable[..., Tensor], packing: Packing, y0: Tensor, t: Any, method: str, stepping: Stepping,
    adjoint: Backsolve,
) -> Tensor:  # fmt: skip
    if not isinstance(stepping, Adaptive):
        raise ValueError(f"adjoint: expected adaptive steps beside Backsolve; got {stepping}")
    backward = replace(stepping, first_step=None, compact=False, compile=False)
    if adjoint.stepping is not None:
        backward = packing.stepping(adjoint.stepping)  # type: ignore[assignment]
    table = tableau(adjoint.method or method)
    stepping_for(table.name, backward)
    params = adjoint.params
    if params is None:
        if not isinstance(f, torch.nn.Module):
            raise ValueError(
                "params: expected the tensors that f is to be differentiated by, () for none, as f is no module"
            )
        params = tuple(f.parameters())
    times = clock_times(t, y0)
    times = times.expand(y0.shape[0], -1) if times.ndim == 1 else times

    def solve(y0: Tensor, times: Tensor) -> Tensor:
        return _reached(solve_ivp(field, y0, times, method=method, stepping=stepping)).y

    return backsolve(Checked(field, copies=True), table, y0, times, backward.of_state(y0), params, solve)  # type: ignore[arg-type]


def _reached(solution: Solution) -> Solution:
    # the answer of fixed steps holds its NaN itself, and must not wait for the host
    if solution.accepted is not solution.attempts and not solution.success:
        raise SolverError(solution)
    return solution
