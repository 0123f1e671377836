"""torchdiffeq's interface: `from pyflowk.compat.torchdiffeq import odeint, odeint_adjoint, odeint_event, odeint_dense`.

The whole state is one system with one step, and the field gets a 0-d time, as there. What differs: the last time is hit
exactly instead of passed and interpolated back; tsit5 has its proper weights; fixed steps end at the output times, so
that none is interpolated; Adams methods have orders up to 5, with one correction a step; a failure raises `SolverError`
instead of an assertion.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from ..ops.describe import described
from ..ops.dtypes import state_dtype
from ..solvers import Adaptive, Backsolve, Event, Fixed, Status
from ..solvers.ode.methods import METHODS, estimates_error
from ..solvers.ode.odeint import Packing
from ..solvers.ode.odeint import odeint as solve
from ..solvers.ode.solve import SolverError, solve_ivp
from ..solvers.ode.stepping import Stepping

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]

#: torchdiffeq's name -> ours; names that are the same are left out.
_METHODS = {
    "adaptive_heun": "heun2",
    "explicit_adams": "adams5",
    "implicit_adams": "adams5",
    "fixed_adams": "adams5",
    None: "dopri5",
}
_FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", "fixed_adams")
#: torchdiffeq's option -> ours.
_OPTIONS = {"ifactor": "grow", "dfactor": "shrink", "max_num_steps": "max_steps", "min_step": "dt_min",
            "max_step": "dt_max"}  # fmt: skip
_SAME = ("safety", "first_step", "step_size", "perturb", "norm")
_PLACES = ("jump_t", "step_t", "grid_constructor")
_IGNORED = ("dtype", "interp", "max_order", "max_iters")
_HORIZON = 1e6  # how far to look for an event,
_EVENT_STEPS = 10_000  # and for how many steps


class _Call:
    """One call's method and options, in our words, and where it has to step."""

    def __init__(self, func: Any, y0: Any, rtol: Any, atol: Any, method: str | None, options: Any) -> None:
        self.fixed = method in _FIXED
        self.places: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for name, value in (options or {}).items():
            if name in _PLACES:
                self.places[name] = value
            elif name in _OPTIONS or name in _SAME:
                found[_OPTIONS.get(name, name)] = value
            elif name not in _IGNORED:
                known = ", ".join((*_SAME, *_PLACES, *_OPTIONS, *_IGNORED))
                raise ValueError(f"options: expected some of {known}; got {name!r}")
        if "step_size" in found and "grid_constructor" in self.places:
            raise ValueError("options: expected step_size or grid_constructor; got both")
        self.method = _METHODS.get(method, method or "dopri5")
        if self.method not in METHODS:
            known = ", ".join(dict.fromkeys([*(name for name in _METHODS if name), *METHODS]))
            raise ValueError(f"method: expected one of {known}; got {method!r}")
        self.most_steps: int | None = found.pop("max_steps", None)
        self.stepping = self._stepping(found, rtol, atol, isinstance(y0, Tensor))
        if callbacks := [name for name in ("callback_step", "callback_accept_step", "callback_reject_step")
                         if hasattr(func, name)]:  # fmt: skip
            warnings.warn(f"odeint: {', '.join(callbacks)} of the field are not called", stacklevel=4)

    def _stepping(self, options: dict[str, Any], rtol: Any, atol: Any, single: bool) -> Stepping:
        if self.fixed or "step_size" in options or not estimates_error(self.method):
            return Fixed(step_size=options.get("step_size"), perturb=options.get("perturb", False))
        if options.pop("perturb", False):
            raise ValueError(f"options: expected perturb beside fixed steps; got it beside {self.method}")
        norm = options.pop("norm", None if single else _largest)
        if norm is not None:
            options["norm"] = lambda error: torch.as_tensor(norm(error)).abs()
        if self.most_steps is not None:
            options["max_steps"] = self.most_steps
        return Adaptive(rtol, atol, **options)

    def inner(self, start: float, end: float) -> list[tuple[float, bool]]:
        """Where a step has to end between two times, and whether the field jumps there, in the order of the way."""
        found: dict[float, bool] = {}
        for name in ("step_t", "jump_t"):
            for t in torch.as_tensor(self.places.get(name, ())).flatten().tolist():
                if min(start, end) < t < max(start, end):
                    found[t] = name == "jump_t" or found.get(t, False)
        return sorted(found.items(), reverse=end < start)


def _largest(states: tuple[Tensor, ...]) -> Tensor:
    """The largest of the root mean squares of the states of a tuple."""
    return torch.stack([part.abs().square().mean().sqrt() for part in states if part.numel()]).max()


def _within(func: Callable[..., Any], start: Any, end: Any, jumps: tuple[bool, bool]) -> Callable[..., Any]:
    """The field between two times, at whose ends it may jump: never asked there, but just inside."""

    def inside(t: Tensor, y: Any) -> Any:
        first, last = (torch.as_tensor(x, dtype=t.dtype, device=t.device).detach() for x in (start, end))
        low = torch.nextafter(first, last) if jumps[0] else first
        high = torch.nextafter(last, first) if jumps[1] else last
        nearest = t.detach().clamp(min=torch.minimum(low, high), max=torch.maximum(low, high))
        return func(t + (nearest - t).detach(), y)

    return inside if any(jumps) else func


def _tree(f: Callable[..., Any], *states: Any) -> Any:
    return f(*states) if isinstance(states[0], Tensor) else tuple(map(f, *states))


def _solve(call: _Call, func: Callable[..., Any], y0: Any, t: Any, adjoint: Backsolve | None = None) -> Any:
    """The states at the times t, by way of the places where steps have to end."""

    def piece(f: Callable[..., Any], y: Any, times: Any) -> Any:
        return solve(f, y, times, method=call.method, stepping=call.stepping, adjoint=adjoint, rows=False)

    if not call.places or not isinstance(t, Tensor) or t.ndim != 1 or len(t) < 2:
        return piece(func, y0, t)
    if call.fixed:
        if "grid_constructor" not in call.places:
            return piece(func, y0, t)
        grid = call.places["grid_constructor"](func, y0, t)
        if grid[0] != t[0] or grid[-1] != t[-1]:
            raise ValueError(f"grid_constructor: expected a grid from {t[0]} to {t[-1]}; got {grid}")
        every = torch.cat([t, grid.to(t)])
        order = every.detach().argsort(stable=True, descending=bool(t[-1] < t[0]))
        every = every[order]
        kept = torch.cat([every.new_ones(1, dtype=torch.bool), every.diff() != 0])
        wanted = (kept.cumsum(0) - 1)[order.argsort()[: len(t)]]
        return _tree(itemgetter(wanted), piece(func, y0, every[kept]))
    inner = call.inner(t[0].item(), t[-1].item())
    sign = -1 if t[-1] < t[0] else 1
    ends = [(t[0], False), *((t.new_tensor(at), jumps) for at, jumps in inner), (t[-1], False)]
    y, found = y0, [_tree(itemgetter(None), y0)]
    for (start, before), (end, after) in pairwise(ends):
        here = t[1:][(t[1:] * sign > start * sign) & (t[1:] * sign <= end * sign)]
        last = bool(len(here)) and bool(here[-1] == end)
        times = torch.cat([start[None], here] if last else [start[None], here, end[None]])
        states = piece(_within(func, start, end, (before, after)), y, times)
        y = _tree(itemgetter(-1), states)
        found.append(_tree(itemgetter(slice(1, len(here) + 1)), states))
    return _tree(lambda *parts: torch.cat(parts), *found)


class _Nearest:
    """An event of torchdiffeq on the packed state: of several values, each by its sign at the start, the smallest."""

    def __init__(self, event: Callable[..., Tensor], packing: Packing, t: Tensor, y: Tensor) -> None:
        self.event, self.packing = event, packing
        self.__name__ = getattr(event, "__name__", type(event).__name__)
        with torch.no_grad():
            self.first = self.last = self.values(t.to(state_dtype(y)), y)
        self.sign = torch.where(self.first < 0, -1, 1)

    def values(self, t: Tensor, y: Tensor) -> Tensor:
        found = self.event(t.reshape(()), self.packing.unpack(y))
        if not isinstance(found, Tensor) or not found.numel():
            got = described(found)
            raise TypeError(f"event {self.__name__}: expected a tensor of one or several numbers; got {got}")
        return found.reshape(-1)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        found = self.values(t, y)
        self.last = found.detach().clone()
        return (found * self.sign).min().reshape(1)


def _times(t: Any) -> Tensor:
    """Times as a tensor of floating-point numbers."""
    times = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)
    if not times.is_floating_point():
        raise TypeError(f"t: expected floating-point times; got {described(t)}")
    return times


def odeint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[..., Tensor] | None = None,
) -> Any:
    """`torchdiffeq.odeint`: (T, *shape of y0) at the times t; with `event_fn` (event time, states at start and there).

    Gradients are those of the discrete solution, with checkpoints. rtol and atol may be tensors, and tuples for a tuple
    of states. Options are those of torchdiffeq; dtype, interp, max_order and max_iters have no counterpart here and are
    ignored. Callbacks of the field are not called.

    Raises:
        ValueError: an option or method that is not known.
        SolverError: the solver cannot go on.

    >>> odeint(lambda t, y: -y, torch.tensor(1.0), torch.tensor([0.0, 1.0]), rtol=1e-5, atol=1e-5)
    tensor([1.0000, 0.3679])
    """
    call, t = _Call(func, y0, rtol, atol, method, options), _times(t)
    if event_fn is None:
        return _solve(call, func, y0, t)
    return _to_event(call, func, y0, t, event_fn, reverse=len(t) > 1 and bool(t[1] < t[0]))


def odeint_adjoint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[..., Tensor] | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Tensor | Iterable[Tensor] | None = None,
) -> Any:
    """`torchdiffeq.odeint_adjoint`: as `odeint`, with the continuous adjoint for the gradient of adaptive methods.

    The adjoint equation is always controlled without the parameters' part (the "seminorm"): a norm among
    adjoint_options is not asked. Where either method has fixed steps, and up to an event, the gradient is the exact one
    of the discrete solution, with checkpoints.

    >>> net = torch.nn.Linear(2, 2)
    >>> y = odeint_adjoint(lambda t, y: net(y), torch.ones(3, 2), torch.tensor([0.0, 1.0]), rtol=1e-4, atol=1e-4,
    ...                    adjoint_params=net.parameters())
    >>> y[-1].sum().backward(); net.weight.grad.shape
    torch.Size([2, 2])
    """
    if adjoint_params is None:
        if not isinstance(func, torch.nn.Module):
            raise ValueError("func: expected an nn.Module, or adjoint_params beside it")
        adjoint_params = func.parameters()
    if event_fn is not None:
        return odeint(func, y0, t, rtol=rtol, atol=atol, method=method, options=options, event_fn=event_fn)
    call, t = _Call(func, y0, rtol, atol, method, options), _times(t)
    if adjoint_method not in (None, method) and options and adjoint_options is None:
        raise ValueError("adjoint_options: expected those of adjoint_method, as that differs from method; got none")
    norm = call.stepping.norm if isinstance(call.stepping, Adaptive) else None
    known = {**(adjoint_options or {}), "norm": norm}
    backward = _Call(
        func, y0, rtol if adjoint_rtol is None else adjoint_rtol, atol if adjoint_atol is None else adjoint_atol,
        adjoint_method or method, known,
    )  # fmt: skip
    if isinstance(call.stepping, Fixed) or isinstance(backward.stepping, Fixed):
        return _solve(call, func, y0, t)
    return _solve(call, func, y0, t, Backsolve(adjoint_params, backward.method, backward.stepping))


def odeint_dense(
    func: Callable[..., Any],
    y0: Tensor,
    t0: Tensor,
    t1: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Tensor], Any]:
    """`torchdiffeq.odeint_dense`: the solution from t0 to t1 as a function of time, () or (N,), NaN outside.

    By the polynomial of any Runge-Kutta method; y0 may be a tuple of states.

    >>> y = odeint_dense(lambda t, y: -y, torch.tensor([1.0]), torch.tensor(0.0), torch.tensor(1.0), rtol=1e-5)
    >>> y(torch.tensor(0.5))
    tensor([0.6065])
    """
    call = _Call(func, y0, rtol, atol, method, options)
    if call.places:
        raise ValueError(f"options: expected none of {', '.join(_PLACES)} for dense output")
    packing = Packing(y0, rows=False)
    ends = torch.stack([torch.as_tensor(end).reshape(()) for end in (t0, t1)])
    solution = solve_ivp(packing.field(func), packing.pack(y0), ends, method=call.method, dense=True,
                         stepping=packing.stepping(call.stepping))  # fmt: skip
    if not solution.success or solution.dense is None:
        raise SolverError(solution)
    dense = solution.dense

    def at(t: Tensor) -> Any:
        t = torch.as_tensor(t)
        states = packing.unpack(dense(t.reshape(-1)))
        return states if t.ndim else _tree(itemgetter(0), states)

    return at


def odeint_event(
    func: Callable[..., Any],
    y0: Any,
    t0: Tensor,
    *,
    event_fn: Callable[..., Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **options: Any,
) -> tuple[Tensor, Any]:
    """`torchdiffeq.odeint_event`: (time at which event_fn changes its sign, states at t0 and there), differentiable.

    With several values of event_fn the first that changes its sign. Fixed steps need the option step_size. Looked for
    is within a million units of time and ten thousand adaptive steps, or max_num_steps; RuntimeError, with the event's
    name and values, where there is none.

    >>> t, y = odeint_event(lambda t, y: -torch.ones_like(y), torch.tensor([2.0]), torch.tensor(0.0),
    ...                     event_fn=lambda t, y: y)
    >>> round(t.item(), 5)
    2.0
    """
    known = {name: options.pop(name, default) for name, default in
             (("rtol", 1e-7), ("atol", 1e-9), ("method", None), ("options", None))}  # fmt: skip
    if unknown := [name for name in options if not name.startswith("adjoint_")]:
        raise TypeError(f"odeint_event: unexpected arguments {', '.join(sorted(unknown))}")
    return _to_event(_Call(func, y0, **known), func, y0, t0, event_fn, reverse=reverse_time)


def _to_event(
    call: _Call, func: Callable[..., Any], y0: Any, t: Tensor, event_fn: Callable[..., Tensor], *, reverse: bool
) -> tuple[Tensor, Any]:
    packing, t = Packing(y0, rows=False), _times(t)
    start, state = t.reshape(-1)[0], packing.pack(y0)
    nearest = _Nearest(event_fn, packing, start, state)
    if bool((nearest.first == 0).any()):
        return start, packing.unpack(torch.stack([state, state]))
    stepping, horizon = packing.stepping(call.stepping), _HORIZON
    if isinstance(stepping, Adaptive) and call.most_steps is None:
        stepping = replace(stepping, max_steps=_EVENT_STEPS)
    elif isinstance(stepping, Fixed) and stepping.step_size is not None and call.most_steps is not None:
        horizon = min(horizon, call.most_steps * stepping.step_size)
    end = start.detach() + (-horizon if reverse else horizon)
    inner = [] if call.fixed else call.inner(start.item(), end.item())
    ends = [(start, False), *((start.new_tensor(at), jumps) for at, jumps in inner), (end, False)]
    y, steps = state, 0
    for (begin, before), (stop, after) in pairwise(ends):
        field = packing.field(_within(func, begin, stop, (before, after)))
        times = torch.stack([begin, stop])
        solution = solve_ivp(field, y, times, method=call.method, stepping=stepping, events=Event(nearest))
        if solution.status.item() == Status.EVENT and solution.event_t is not None and solution.event_y is not None:
            return solution.event_t[0].to(t.dtype), packing.unpack(torch.stack([state, solution.event_y]))
        if solution.status.item() not in (Status.SUCCESS, Status.MAX_STEPS):
            raise SolverError(solution)
        y, steps = solution.y[-1], steps + int(solution.attempts)
        if not solution.success:
            break
    first, last = nearest.first.tolist(), nearest.last.tolist()
    raise RuntimeError(
        f"event {nearest.__name__}: expected its sign to change; got no change in {steps} steps from "
        f"t = {start.item():g}, where it is {first}, to {solution.reached.item():g}, where it is {last}; "
        "max_num_steps allows more steps"
    )
