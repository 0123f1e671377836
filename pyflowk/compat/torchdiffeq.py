"""torchdiffeq's interface: `from pyflowk.compat.torchdiffeq import odeint, odeint_adjoint, odeint_event`.

The whole state is one system with one step, and the field gets a 0-d time, as there. What differs: the last time is hit
exactly instead of passed and interpolated back; tsit5 has its proper weights; fixed steps fit between the output times;
a failure raises `SolverError` instead of an assertion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..solvers.events import Event
from ..solvers.field import real_dtype
from ..solvers.odeint import Packing
from ..solvers.odeint import odeint as solve
from ..solvers.solve import SolverError, Status, solve_ivp

__all__ = ["odeint", "odeint_adjoint", "odeint_event"]

#: torchdiffeq's name -> ours; names that are the same are left out.
_METHODS = {
    "adaptive_heun": "heun2",
    "explicit_adams": "adams4",
    "implicit_adams": "adams4",
    "fixed_adams": "adams4",
    None: "dopri5",
}
_FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", "fixed_adams")
#: torchdiffeq's option -> ours.
_OPTIONS = {"ifactor": "grow", "dfactor": "shrink", "max_num_steps": "max_steps", "min_step": "dt_min",
            "max_step": "dt_max"}  # fmt: skip
_SAME = ("safety", "first_step", "step_size")
_IGNORED = ("norm", "dtype", "perturb", "interp", "max_order", "max_iters")


def _translated(method: str | None, options: Mapping[str, Any] | None, t: Tensor) -> tuple[str, dict[str, Any]]:
    found: dict[str, Any] = {}
    for name, value in (options or {}).items():
        if name in _OPTIONS or name in _SAME:
            found[_OPTIONS.get(name, name)] = value
        elif name not in _IGNORED:
            known = ", ".join((*_SAME, *_OPTIONS, *_IGNORED))
            raise ValueError(f"options: expected some of {known}; got {name!r}")
    if method in _FIXED and "step_size" not in found:
        found["steps"] = 1  # from one time to the next, as there
    return _METHODS.get(method, method or "dopri5"), found


def _unbatched(event: Callable[..., Tensor], packing: Packing, t: Tensor, y: Tensor) -> Event:
    """The event on the packed state; of several values, each by its sign at the start, the smallest."""

    def values(t: Tensor, y: Tensor) -> Tensor:
        return event(t.reshape(()), packing.unpack(y)).reshape(-1)

    with torch.no_grad():
        sign = torch.where(values(t.to(real_dtype(y)), y) < 0, -1, 1)
    return Event(lambda t, y: (values(t, y) * sign).min().reshape(1))


def odeint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[..., Tensor] | None = None,
) -> Any:
    """`torchdiffeq.odeint`: (T, *shape of y0) at the times t; with `event_fn` (event time, states at start and there).

    Gradients are those of the discrete solution, with checkpoints. Options without a counterpart here are accepted
    and ignored (norm, dtype, perturb, interp, max_order, max_iters).

    Raises:
        ValueError: an option or method that is not known.
        SolverError: the solver cannot go on.

    >>> odeint(lambda t, y: -y, torch.tensor(1.0), torch.tensor([0.0, 1.0]), rtol=1e-5, atol=1e-5)
    tensor([1.0000, 0.3679])
    """
    name, found = _translated(method, options, t)
    if event_fn is None:
        return solve(func, y0, t, rtol=rtol, atol=atol, method=name, options=found, rows=False)
    return _to_event(func, y0, t, event_fn, rtol, atol, name, found, reverse=False)


def odeint_adjoint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[..., Tensor] | None = None,
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """`torchdiffeq.odeint_adjoint`: as `odeint`, with the continuous adjoint for the gradient of adaptive methods.

    The adjoint equation is always controlled without the parameters' part (the "seminorm"), with the forward solve's
    method and tolerances; adjoint_rtol, adjoint_atol, adjoint_method and adjoint_options are accepted for the import's
    sake. Methods with fixed steps keep the exact gradient of the discrete solution, with checkpoints.

    >>> net = torch.nn.Linear(2, 2)
    >>> y = odeint_adjoint(lambda t, y: net(y), torch.ones(3, 2), torch.tensor([0.0, 1.0]), rtol=1e-4, atol=1e-4,
    ...                    adjoint_params=net.parameters())
    >>> y[-1].sum().backward(); net.weight.grad.shape
    torch.Size([2, 2])
    """
    name, found = _translated(method, options, t)
    if event_fn is not None:
        return _to_event(func, y0, t, event_fn, rtol, atol, name, found, reverse=False)
    if adjoint_params is None and not isinstance(func, torch.nn.Module):
        raise ValueError("func: expected an nn.Module, or adjoint_params beside it")
    fixed = "steps" in found or "step_size" in found
    return solve(
        func, y0, t, rtol=rtol, atol=atol, method=name, options=found, rows=False, params=adjoint_params,
        adjoint="checkpoint" if fixed else "backsolve",
    )  # fmt: skip


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

    With several values of event_fn the first that changes its sign.

    >>> t, y = odeint_event(lambda t, y: -torch.ones_like(y), torch.tensor([2.0]), torch.tensor(0.0),
    ...                     event_fn=lambda t, y: y)
    >>> round(t.item(), 5)
    2.0
    """
    rtol, atol = options.pop("rtol", 1e-7), options.pop("atol", 1e-9)
    name, found = _translated(options.pop("method", None), options.pop("options", None), t0)
    ignored = {key for key in options if key.startswith("adjoint_")}
    if unknown := options.keys() - ignored:
        raise TypeError(f"odeint_event: unexpected arguments {', '.join(sorted(unknown))}")
    return _to_event(func, y0, t0, event_fn, rtol, atol, name, found, reverse=reverse_time)


def _to_event(
    func: Callable[..., Any], y0: Any, t: Tensor, event_fn: Callable[..., Tensor], rtol: float, atol: float,
    method: str, options: dict[str, Any], *, reverse: bool,
) -> tuple[Tensor, Any]:  # fmt: skip
    packing = Packing(y0, rows=False)
    start, state = t.reshape(-1)[0], packing.pack(y0)
    horizon = _HORIZON if not reverse else -_HORIZON
    solution = solve_ivp(
        packing.field(func), state, torch.stack([start, start + horizon]), method=method, rtol=rtol, atol=atol,
        events=_unbatched(event_fn, packing, start, state), **options,
    )  # fmt: skip
    if solution.status.item() != Status.EVENT or solution.event_t is None or solution.event_y is None:
        raise SolverError(solution) if not solution.success else RuntimeError("odeint_event: no event was found")
    return solution.event_t[0].to(t.dtype), packing.unpack(torch.stack([state, solution.event_y]))


_HORIZON = 1e6  # how far to look for an event
