"""Fields, drifts and events that answer in memory which they use again, or in that of their arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.solvers import METHODS, TABLEAUS, Adaptive, Backprop, Backsolve, Event, Fixed, odeint, sdeint, solve_ivp
from pyflowk.transforms import Continuous

D = torch.float64
Y0 = torch.tensor([[1.0, 0.3], [-0.4, 0.8]], dtype=D)
Function = Callable[[Tensor, Tensor], Tensor]


def plain(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[:, 1], -torch.sin(y[:, 0]) - t.reshape(-1)], 1)


def in_one_buffer(f: Function) -> Function:
    buffer = torch.empty_like(Y0)
    return lambda t, y: buffer.copy_(f(t, y))


def in_views(f: Function) -> Function:
    buffer = torch.empty_like(Y0)
    return lambda t, y: buffer.copy_(f(t, y)).view_as(buffer)


def in_turns(f: Function) -> Function:
    """Three buffers, one after the other."""
    buffers = [torch.empty_like(Y0) for _ in range(3)]

    def g(t: Tensor, y: Tensor) -> Tensor:
        buffers.append(buffers.pop(0).copy_(f(t, y)))
        return buffers[-1]

    return g


def in_numpy(f: Function) -> Function:
    """Nothing tells torch of these writes."""
    memory = Y0.numpy().copy()

    def g(t: Tensor, y: Tensor) -> Tensor:
        memory[...] = f(t, y).detach().numpy()
        return torch.from_numpy(memory)

    return g


WAYS = [in_one_buffer, in_views, in_turns, in_numpy]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@ways
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_bits(method: str, way: Any) -> None:
    adaptive = method in TABLEAUS and TABLEAUS[method].error is not None
    for stepping in (Adaptive(1e-6, 1e-6), Fixed(3)) if adaptive else (Fixed(3),):
        times = torch.linspace(0, 1, 5, dtype=D)
        truth, found = (solve_ivp(f, Y0, times, method=method, stepping=stepping).y for f in (plain, way(plain)))
        assert torch.equal(found, truth)


@ways
def test_dense_output_and_events(way: Any) -> None:
    """An event's values in one buffer beside."""
    memory = torch.empty(2, dtype=D)

    def solved(f: Function, wrap: Callable[[Function], Function]) -> list[Tensor]:
        events = [Event(wrap(lambda t, y: y[:, 0] - 0.2), terminal=False), Event(wrap(lambda t, y: y[:, 1] + 1.5))]
        solution = solve_ivp(f, Y0, [0.0, 3.0], events=events, dense=True)
        assert solution.dense is not None and solution.event_t is not None
        times = [record.t for record in solution.records]
        return [solution.y, solution.event_t, *times, solution.dense(torch.linspace(0, 1, 20))]

    found = solved(way(plain), lambda g: lambda t, y: memory.copy_(g(t, y)))
    torch.testing.assert_close(found, solved(plain, lambda g: g), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("way", WAYS[:3], ids=lambda way: way.__name__)
@pytest.mark.parametrize("options", [
    {}, {"adjoint": Backprop()}, {"backsolve": True}, {"method": "rk4", "stepping": Fixed(8)},
    {"method": "adams4", "stepping": Fixed(8)},
], ids=str)  # fmt: skip
def test_gradients(options: dict[str, Any], way: Any) -> None:
    """Through what was written into the buffer last, and the time before."""

    def gradient(wrap: Callable[[Function], Function]) -> Tensor:
        W = torch.tensor([[0.3, -1.0], [0.8, 0.2]], dtype=D, requires_grad=True)
        f = wrap(lambda t, y: torch.tanh(y @ W) * (1 + t))
        chosen = {"stepping": Adaptive(1e-8, 1e-8), **options}
        if chosen.pop("backsolve", False):
            chosen["adjoint"] = Backsolve(W)
        y = odeint(f, Y0, [0.0, 1.0], **chosen)[-1]
        return torch.autograd.grad(y.square().sum(), W)[0]

    torch.testing.assert_close(gradient(way), gradient(lambda f: f), rtol=1e-9, atol=1e-9)


@ways
@pytest.mark.parametrize("method", ["euler_maruyama", "heun"])
def test_drift_and_diffusion_in_one_buffer(method: str, way: Any) -> None:
    def path(wrap: Callable[[Function], Function]) -> Tensor:
        shared = wrap(lambda t, y: torch.where(t < 0, 0.3 * y, -y))  # one function with one memory for both
        drift, diffusion = (lambda t, y: shared(t + 1, y)), (lambda t, y: shared(t - 9, y))
        return sdeint(drift, diffusion, Y0, [0.0, 1.0], method=method, stepping=Fixed(6), seeds=[1, 2])

    assert torch.equal(path(way), path(lambda f: f))


def test_the_state_itself_and_a_constant_are_slopes() -> None:
    ones = torch.ones_like(Y0)
    for f, exact in (
        (lambda t, y: y, Y0 * math.e),
        (lambda t, y: y.view_as(y), Y0 * math.e),
        (lambda t, y: ones, Y0 + 1),
    ):
        for options in (
            {},
            {"method": "rk4", "stepping": Fixed(40)},
            {"method": "adams3", "stepping": Fixed(80)},
        ):
            y = odeint(f, Y0, [0.0, 1.0], **options)
            torch.testing.assert_close(y[-1], exact, rtol=1e-5, atol=1e-6)
            assert torch.equal(y[0], Y0) and torch.equal(ones, torch.ones_like(ones))


def test_under_a_compiler() -> None:
    buffer = torch.empty_like(Y0)
    solve = lambda y, f: odeint(f, y, [0.0, 1.0], method="rk4", stepping=Fixed(5))[-1]  # noqa: E731
    found = torch.compile(solve, backend="eager")(Y0, lambda t, y: buffer.copy_(plain(t, y)))
    torch.testing.assert_close(found, solve(Y0, plain))


def test_a_continuous_flow_of_a_field_with_one_buffer() -> None:
    buffer = torch.empty_like(Y0)
    for options in ({}, {"method": "rk4", "stepping": Fixed(20)}):
        moved = Continuous(lambda t, x: torch.neg(x, out=buffer), **options).move(Y0, 0.0, 1.0)
        torch.testing.assert_close(moved, Y0 * math.exp(-1), rtol=1e-5, atol=1e-5)


def halve(y: Tensor) -> Tensor:
    return y.mul_(0.5)


def halve_in_numpy(y: Tensor) -> Tensor:
    y.numpy()[...] *= 0.5
    return -y


@pytest.mark.parametrize("change", [halve, halve_in_numpy])
def test_a_field_that_changes_its_state_is_an_error(change: Callable[[Tensor], Tensor]) -> None:
    """Also late, also the time, also an event that does; its integral was wrong unseen."""
    for options in ({}, {"method": "rk4"}, {"method": "adams2"}):
        with pytest.raises(ValueError, match="leave time and state as they are"):
            solve_ivp(lambda t, y: change(y), Y0.clone(), [0.0, 1.0], **options)
    for late in (lambda t, y: t.mul_(2) * y, lambda t, y: y if t < 0.5 else halve(y)):
        with pytest.raises(ValueError, match="leave time and state as they are"):
            solve_ivp(late, Y0.clone(), [0.25, 1.0], method="rk4", stepping=Fixed(2))
    with pytest.raises(ValueError, match="event ground: expected it to leave the state"):
        ground = lambda t, y: halve(y)[:, 0]  # noqa: E731
        ground.__name__ = "ground"
        solve_ivp(plain, Y0, [0.0, 1.0], events=Event(ground))


def test_a_solution_is_not_changed_with_the_start_that_it_came_from() -> None:
    y0 = Y0.clone()
    solution = solve_ivp(plain, y0, [0.0, 0.5], dense=True)
    assert solution.dense is not None
    states = solution.y.clone(), solution.dense([0.0, 0.1])
    y0.zero_()
    assert torch.equal(solution.y, states[0]) and torch.equal(solution.dense([0.0, 0.1]), states[1])
