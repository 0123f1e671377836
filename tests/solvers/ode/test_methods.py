"""Every method that is registered, in everything that the solvers do: who adds one adds nothing here.

Orders are measured in `test_odeint.py`, tables checked in `test_tableaus.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyflowk import zoo
from pyflowk.solvers import (
    METHODS,
    TABLEAUS,
    Adaptive,
    Backprop,
    Backsolve,
    Event,
    Fixed,
    Recompute,
    Solution,
    Status,
    odeint,
    solve_ivp,
)
from pyflowk.solvers.ode.methods import ADAMS, estimates_error

from .problems import pendulum

D = torch.float64
ADAPTIVE = [name for name in METHODS if estimates_error(name)]
Y0 = torch.tensor([[1.0, 0.2], [-0.4, 0.8]], dtype=D)


def bound(method: str) -> float:
    """What an adaptive solve's error is to be below."""
    return {2: 3e-2, 3: 3e-4}.get(TABLEAUS[method].order, 3e-6)


def adaptive(method: str, **options: Any) -> Adaptive:
    """Tolerances for that bound; less where the estimate is a small part of the error, as its weights tell."""
    tolerance = bound(method) / 300 * min(1, 2 * max(map(abs, TABLEAUS[method].error or ())))
    return Adaptive(tolerance, tolerance, **options)


def test_the_registry_is_what_is_tested_and_offered() -> None:
    assert set(METHODS) == {*TABLEAUS, *ADAMS} and all(table.name == name for name, table in TABLEAUS.items())
    assert zoo.options("neural_ode")["method"].choices == METHODS


@pytest.mark.parametrize("method", METHODS)
def test_gradients(method: str) -> None:
    """All adjoints agree: those of the discrete solution to rounding, the continuous one to its tolerance."""
    A = torch.tensor([[-0.1, 2.0], [-2.0, -0.3]], dtype=D, requires_grad=True)
    y0, t = Y0.clone().requires_grad_(), torch.tensor([0.2, 0.5, 0.7, 1.1], dtype=D, requires_grad=True)
    adjoints, found = [Backprop(), Recompute(), Recompute(1), Recompute(3)], []
    steps = adaptive(method) if method in ADAPTIVE else Fixed(7)
    for adjoint in [*adjoints, Backsolve([A])] if method in ADAPTIVE else adjoints:
        f = lambda t, y: torch.tanh(y @ A.T) * t  # noqa: E731
        y = odeint(f, y0, t, method=method, stepping=steps, adjoint=adjoint)
        found.append(torch.autograd.grad(y.sin().sum(), (A, y0, t)))
    for other in found[1:4]:
        torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-12)
    for other in found[4:]:
        torch.testing.assert_close(other, found[0], rtol=bound(method), atol=bound(method))


@pytest.mark.parametrize("method", ADAPTIVE)
def test_inside_the_steps(method: str) -> None:
    """Outputs between, dense output and what is differentiated are one polynomial; calls are counted."""
    calls = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        calls.append(t)
        return pendulum(t, y)

    times, close = torch.linspace(0, 3, 13, dtype=D), adaptive(method)
    truth = odeint(pendulum, Y0, times, method="dopri8", rtol=1e-12, atol=1e-12)
    plain = solve_ivp(f, Y0[:1], times, method=method, stepping=close)
    assert plain.evaluations.tolist() == [len(calls)]
    calls.clear()
    dense = solve_ivp(f, Y0[:1], times, method=method, stepping=close, dense=True)
    rejected = int(dense.attempts - dense.accepted)  # where the extra slopes are not needed, but not left out
    assert int(dense.evaluations) <= len(calls) <= int(dense.evaluations) + rejected * len(TABLEAUS[method].extra)
    assert dense.dense is not None
    graph = solve_ivp(f, Y0[:1].clone().requires_grad_(), times, method=method, stepping=close, dense=True)
    assert graph.dense is not None
    for y in (plain.y, dense.y, dense.dense(times), graph.y, graph.dense(times)):
        torch.testing.assert_close(y, truth[:, :1], rtol=bound(method), atol=bound(method))
        torch.testing.assert_close(y, plain.y, rtol=1e-11, atol=1e-11)
    assert dense.dense(3.5).isnan().all() and torch.equal(dense.dense(2.0), dense.dense([1.0, 2.0])[1])


@pytest.mark.parametrize("method", TABLEAUS)
def test_events(method: str) -> None:
    """A fall in a field that grows with time, from where it starts to zero: t^3 / 6 = height."""
    height = torch.tensor([1.0, 2.0], dtype=D, requires_grad=True)
    f = lambda t, y: -(t**2) / 2 * torch.ones_like(y)  # noqa: E731
    steps = adaptive(method) if method in ADAPTIVE else Fixed(step_size=0.01)
    solution = solve_ivp(
        f, height[:, None], [0.0, 4.0], method=method, stepping=steps, events=Event(lambda t, y: y[:, 0])
    )
    assert solution.status.tolist() == [Status.EVENT] * 2 and solution.event_t is not None
    exact, close = (6 * height) ** (1 / 3), {1: 1e-2, 2: 1e-4}.get(TABLEAUS[method].order, 1e-7)
    torch.testing.assert_close(solution.event_t, exact, rtol=close, atol=close)
    found, truth = (torch.autograd.grad(t.sum(), height, retain_graph=True)[0] for t in (solution.event_t, exact))
    torch.testing.assert_close(found, truth, rtol=3 * close, atol=3 * close)


class Swing(nn.Module):
    """One code for all methods, so that each of them compiles it anew."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 1], -torch.sin(y[:, 0]) * (1 + t[:, 0] / 9)], 1)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_compiled(method: str) -> None:
    times = torch.linspace(0, 2, 5, dtype=D)

    def solve(**options: Any) -> Solution:
        return solve_ivp(Swing(), Y0, times, method=method, stepping=adaptive(method, **options))

    plain, fast = solve(), solve(compile=True)
    torch.testing.assert_close(fast.y, plain.y, rtol=1e-8, atol=1e-8)
    for name in ("status", "attempts", "accepted", "evaluations"):
        assert torch.equal(getattr(fast, name), getattr(plain, name))
