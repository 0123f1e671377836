"""Adams methods, the continuous adjoint and events."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.solvers import Adaptive, Backsolve, Event, Fixed, Status, odeint, solve_ivp
from pyflowk.solvers.ode.methods import ADAMS

from .problems import PROBLEMS, Problem, pendulum

D = torch.float64


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("method", ADAMS)
def test_observed_order_of_adams(method: str, problem: Problem) -> None:
    errors = []
    for steps in (40, 80):
        y = odeint(problem.f, problem.y0, problem.t, method=method, stepping=Fixed(steps))[-1]
        errors.append((y - problem.exact(torch.tensor(problem.t[1], dtype=D))).abs().max().item())
    assert ADAMS[method] - 0.5 < math.log2(errors[0] / errors[1]) < ADAMS[method] + 1.4


def test_adams_keeps_its_order_on_unequal_steps_and_rows_of_their_own() -> None:
    y0 = torch.tensor([[1.0, 0.0], [0.5, 0.1]], dtype=D)
    times = torch.tensor([[0.0, 1.0, 1.2], [0.0, 0.3, 2.0]], dtype=D)
    truth = odeint(pendulum, y0, times, method="dopri8", rtol=1e-12, atol=1e-12)
    errors = [
        (odeint(pendulum, y0, times, method="adams4", stepping=Fixed(n))[-1] - truth[-1]).abs().max().item()
        for n in (20, 40)
    ]
    assert math.log2(errors[0] / errors[1]) > 3.4
    calls = []
    solution = solve_ivp(lambda t, y: calls.append(0) or pendulum(t, y), y0, times, method="adams4", stepping=Fixed(5))
    assert solution.evaluations.tolist() == [len(calls)] * 2


@pytest.mark.parametrize("method", ADAMS)
def test_adams_goes_on_behind_a_time_that_is_repeated(method: str) -> None:
    """Slopes at one time are one: torch's solver found its matrix singular. A row of repeated times stands still."""
    y0 = torch.tensor([[1.0, 0.0], [0.5, 0.1], [0.3, 0.3]], dtype=D, requires_grad=True)
    times = torch.tensor([[0.0, 0.5, 0.5, 1.5], [0.0, 0.2, 0.6, 0.6], [1.0] * 4], dtype=D)
    truth = odeint(pendulum, y0, times, method="dopri8", rtol=1e-12, atol=1e-12)
    errors = []
    for steps in (1, 40, 80):
        y = odeint(pendulum, y0, times, method=method, stepping=Fixed(steps))
        assert (
            torch.equal(y[1, 0], y[2, 0])
            and torch.equal(y[2, 1], y[3, 1])
            and torch.equal(y[:, 2], y[:1, 2].expand(4, -1))
        )
        assert torch.autograd.grad(y[-1].sum(), y0)[0].isfinite().all()
        errors.append((y - truth).abs().max().item())
    assert errors[2] < 1e-3 and errors[1] > 3.5 * errors[2]


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_backsolve_is_right_up_to_the_tolerance(tolerance: float) -> None:
    A = torch.tensor([[-0.1, 2.0], [-2.0, -0.3]], dtype=D, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.3], [-0.2, 2.0], [0.5, 0.5]], dtype=D, requires_grad=True)
    t = torch.tensor([0.0, 0.3, 1.1, 2.0], dtype=D, requires_grad=True)
    exact = torch.stack([y0 @ torch.linalg.matrix_exp(A * (s - t[0])).T for s in t])
    weights = torch.cos(torch.arange(exact.numel(), dtype=D)).reshape(exact.shape)
    y = odeint(lambda t, y: y @ A.T, y0, t, rtol=tolerance, atol=tolerance, adjoint=Backsolve([A]))
    truth = torch.autograd.grad((exact * weights).sum(), (A, y0, t))
    found = torch.autograd.grad((y * weights).sum(), (A, y0, t))
    torch.testing.assert_close(found, truth, rtol=100 * tolerance, atol=100 * tolerance)


def test_backsolve_of_numbers_and_of_second_order() -> None:
    """Rows of a single number, without a dimension of their own; a second derivative is refused."""
    y0 = torch.tensor([1.0, 2.0, -1.0], dtype=D, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=D, requires_grad=True)
    y = odeint(lambda t, y: -t * y, y0, t, adjoint=Backsolve(()))[-1]
    found = torch.autograd.grad(y.sum(), [y0, t], retain_graph=True)
    truth = torch.full((3,), math.exp(-0.5), dtype=D), torch.tensor([0.0, -2 * math.exp(-0.5)], dtype=D)
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(y.sum(), y0, create_graph=True)


def test_backsolve_wants_parameters_and_an_adaptive_method() -> None:
    with pytest.raises(ValueError, match="params: expected"):
        odeint(lambda t, y: -y, torch.ones(1, 1), [0.0, 1.0], adjoint=Backsolve())
    with pytest.raises(ValueError, match="adaptive steps"):
        odeint(lambda t, y: -y, torch.ones(1, 1), [0.0, 1.0], method="rk4", adjoint=Backsolve(()))


# ---- events --------------------------------------------------------------------------------------------------------


def fall(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[:, 1], torch.full_like(y[:, 1], -9.81)], 1)


@pytest.mark.parametrize("chosen", [{}, {"method": "rk4", "stepping": Fixed(step_size=0.1)}], ids=["adaptive", "fixed"])
def test_free_fall(chosen: dict[str, Any]) -> None:
    height = torch.tensor([1.0, 2.0, 500.0], dtype=D, requires_grad=True)
    y0 = torch.stack([height, torch.zeros_like(height)], 1)
    solution = solve_ivp(fall, y0, [0.0, 5.0], events=Event(lambda t, y: y[:, 0]), **chosen)
    assert solution.status.tolist() == [Status.EVENT, Status.EVENT, Status.SUCCESS]
    assert not chosen or solution.attempts.tolist() == [5, 7, 50]
    assert solution.event_t is not None and solution.event_index.tolist() == [0, 0, -1]
    exact = (2 * height / 9.81).sqrt()
    torch.testing.assert_close(solution.event_t[:2], exact[:2], rtol=1e-10, atol=1e-10)
    assert solution.event_t[2].isnan() and solution.y[-1, :2].isnan().all() and solution.y[-1, 2].isfinite().all()
    (found,) = torch.autograd.grad(solution.event_t[:2].sum() + solution.event_y[:2, 1].sum(), height)
    speed = -(2 * 9.81 * height).sqrt()
    (truth,) = torch.autograd.grad(exact[:2].sum() + speed[:2].sum(), height)
    torch.testing.assert_close(found, truth, rtol=1e-7, atol=1e-7)


def test_bouncing_ball() -> None:
    """Five bounces, each losing a tenth of the speed; an event that is zero at the start does not fire."""
    height = torch.tensor([2.0], dtype=D, requires_grad=True)
    state, t = torch.stack([height, torch.zeros_like(height)], 1), torch.zeros((), dtype=D)
    for _ in range(5):
        solution = solve_ivp(
            fall, state, torch.stack([t, t.detach() + 10]), events=Event(lambda t, y: y[:, 0], direction=-1)
        )
        assert solution.status.tolist() == [Status.EVENT]
        t = solution.event_t[0]
        state = torch.stack([torch.zeros_like(height), -0.9 * solution.event_y[:, 1]], 1)
    exact = (2 * height / 9.81).sqrt() * (1 + 2 * sum(0.9**i for i in range(1, 5)))
    torch.testing.assert_close(t, exact[0], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        torch.autograd.grad(t, height)[0], torch.autograd.grad(exact, height)[0], rtol=1e-6, atol=1e-6
    )


def test_events_that_jump_or_are_touched() -> None:
    """Their times are found; a jump by the time alone has no derivative, one that is touched NaN."""
    y0 = torch.tensor([[1.0], [2.0]], dtype=D, requires_grad=True)
    jump = lambda t, y: (t[:, 0] < 0.7).to(D)  # noqa: E731
    touch = lambda t, y: torch.where(t[:, 0] > 0.7, 0 * y[:, 0], -y[:, 0])  # noqa: E731
    for g, derivative in ((jump, math.exp(-0.7)), (touch, math.nan)):
        solution = solve_ivp(lambda t, y: -y, y0, [0.0, 2.0], events=Event(g))
        assert solution.status.tolist() == [Status.EVENT] * 2
        assert solution.event_t is not None and solution.event_t.tolist() == pytest.approx([0.7] * 2)
        torch.testing.assert_close(solution.event_y, y0 * math.exp(-0.7), rtol=1e-6, atol=1e-6)
        (found,) = torch.autograd.grad(solution.event_y.sum() + solution.event_t.sum(), y0)
        torch.testing.assert_close(found, torch.full_like(y0, derivative), rtol=1e-6, atol=1e-6, equal_nan=True)


def test_roots_are_found_fast_and_row_by_row() -> None:
    """A dozen values of the event inside a step; what a row finds is bitwise what it finds alone."""
    height = torch.linspace(0.3, 3.0, 40, dtype=D)
    y0 = torch.stack([height, torch.zeros_like(height)], 1)
    fall = lambda t, y: torch.stack([y[:, 1], -9.81 - y[:, 1] ** 3], 1)  # noqa: E731
    counts = []

    def ground(t: Tensor, y: Tensor) -> Tensor:
        counts[-1] += 1
        return y[:, 0]

    def land(y0: Tensor) -> tuple[Tensor, int]:
        counts.append(0)
        solution = solve_ivp(fall, y0, [0.0, 5.0], events=Event(ground), stepping=Adaptive(1e-4, 1e-6))
        assert solution.event_t is not None
        return solution.event_t, counts[-1] - int(solution.attempts.max()) - 1

    together, _ = land(y0)
    for row in range(0, 40, 3):
        alone, inside = land(y0[row : row + 1])
        assert torch.equal(alone, together[row : row + 1])
        assert inside <= 13


def test_recording_events_and_directions() -> None:
    y0 = torch.tensor([[1.0, 0.0], [0.5, 0.0]], dtype=D)
    circle = lambda t, y: torch.stack([y[:, 1], -y[:, 0]], 1)  # noqa: E731
    for direction, phases in ((0, [0.5, 1.5, 2.5]), (1, [1.5]), (-1, [0.5, 2.5])):
        events = [Event(lambda t, y: y[:, 0], terminal=False, direction=direction)]
        solution = solve_ivp(circle, y0, [0.0, 3 * math.pi - 0.1], events=events, stepping=Adaptive(1e-10, 1e-10))
        times = sorted(t for r in solution.records for row, t in zip(r.rows.tolist(), r.t.tolist()) if row == 1)
        assert times == pytest.approx([p * math.pi for p in phases], abs=1e-7)


def test_recorded_events_have_gradients() -> None:
    """A circle of a speed of its own for every row crosses the axis at times that go with its period."""
    speed = torch.tensor([1.0, 2.0, 0.1], dtype=D, requires_grad=True)
    circle = lambda t, y: speed[:, None] * torch.stack([y[:, 1], -y[:, 0]], 1)  # noqa: E731
    start = torch.tensor([[1.0, 0.0]], dtype=D).expand(3, -1)
    events = [
        Event(lambda t, y: y[:, 0], terminal=False),
        Event(lambda t, y: y[:, 1] - t[:, 0] / 5, terminal=False, direction=1),
        Event(lambda t, y: t[:, 0] - 5),
    ]
    solution = solve_ivp(circle, start, [0.0, 9.0], events=events, method="dopri8", stepping=Adaptive(1e-9, 1e-9))
    crossings = {
        row: sorted((t for r in solution.records if r.event == 0 for i, t in zip(r.rows.tolist(), r.t) if i == row),
                    key=Tensor.item)
        for row in range(3)
    }  # fmt: skip
    assert [len(found) for found in crossings.values()] == [2, 3, 0]
    for row, found in crossings.items():
        for turn, t in enumerate(found):
            exact = (turn + 0.5) * math.pi / speed[row]
            (slope,) = torch.autograd.grad(t, speed, retain_graph=True)
            (truth,) = torch.autograd.grad(exact, speed)
            torch.testing.assert_close(t, exact, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(slope, truth, rtol=1e-6, atol=1e-6)
    (record,) = (r for r in solution.records if r.event == 1 and 1 in r.rows.tolist())
    here = record.rows.tolist().index(1)
    (total,) = torch.autograd.grad(record.y[here, 1] - record.t[here] / 5, speed, retain_graph=True)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-8)  # it stays on the event
    assert solution.event_t is not None and solution.event_t.tolist() == pytest.approx([5.0] * 3)


def test_outputs_behind_an_event_are_nan_with_and_without_gradient() -> None:
    y0, times = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=D), torch.linspace(0, 2, 41, dtype=D)
    event = Event(lambda t, y: y[:, 0])
    plain = solve_ivp(fall, y0, times, events=event)
    graph = solve_ivp(fall, y0.clone().requires_grad_(), times, events=event)
    torch.testing.assert_close(graph.y, plain.y, equal_nan=True)
    assert torch.equal(plain.y[:, :, 0].isnan(), times[:, None] > plain.event_t)
