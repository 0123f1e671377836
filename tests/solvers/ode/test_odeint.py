"""odeint and solve_ivp: orders, exact solutions, landing, rows by themselves, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.solvers import (
    TABLEAUS,
    Adaptive,
    Backsolve,
    Event,
    Fixed,
    Recompute,
    SolverError,
    Status,
    odeint,
    solve_ivp,
)

from .problems import PROBLEMS, Problem, pendulum, van_der_pol

D = torch.float64
ADAPTIVE = [name for name, table in TABLEAUS.items() if table.error]
#: steps to halve between, few for high orders, whose error meets rounding soon
COUNTS = {8: (6, 12), 5: (16, 32), 4: (20, 40)}


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("name", TABLEAUS)
def test_observed_order(name: str, problem: Problem) -> None:
    order = TABLEAUS[name].order
    errors = []
    for steps in COUNTS.get(order, (40, 80)):
        y = odeint(problem.f, problem.y0, problem.t, method=name, stepping=Fixed(steps))[-1]
        errors.append((y - problem.exact(torch.tensor(problem.t[1], dtype=D))).abs().max().item())
    assert errors[1] > 1e-14
    assert order - 0.35 < math.log2(errors[0] / errors[1]) < order + 1.4


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("name", ADAPTIVE)
def test_error_follows_the_tolerance(name: str, problem: Problem) -> None:
    times = torch.linspace(*problem.t, 7, dtype=D)
    truth = torch.stack([problem.exact(t) for t in times])
    part = min(1.0, 20 * max(map(abs, TABLEAUS[name].error)))  # where the estimate is a small part of the error
    for bound in (1e-3, 1e-5) if TABLEAUS[name].order == 2 else (1e-6, 1e-9):
        y = odeint(problem.f, problem.y0, times, method=name, rtol=part * bound, atol=part * bound)
        assert (y - truth).abs().max() < 60 * bound
        assert torch.equal(y[0], problem.y0)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_backward_time_returns(name: str) -> None:
    y0 = torch.tensor([[1.0, 0.2]], dtype=D)
    tolerance = 1e-5 if TABLEAUS[name].order == 2 else 1e-9
    there = odeint(pendulum, y0, [0.0, 3.0], method=name, rtol=tolerance, atol=tolerance)[-1]
    back = odeint(pendulum, there, [3.0, 0.0], method=name, rtol=tolerance, atol=tolerance)[-1]
    assert (back - y0).abs().max() < 100 * tolerance


def test_every_row_has_times_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    y0 = torch.randn(4, 2, generator=generator, dtype=D)
    times = torch.rand(4, 6, generator=generator, dtype=D).sort(1).values
    times[1] = times[1].flip(0)  # one goes backward
    times[2, 3] = times[2, 4]  # one repeats a time
    times[3] = times[3, 0]  # one stands still
    together = odeint(pendulum, y0, times)
    for row in range(4):
        alone = odeint(pendulum, y0[row : row + 1], times[row])
        assert torch.equal(together[:, row], alone[:, 0])
    assert torch.equal(together[:, 3], y0[3].expand(6, 2))
    assert torch.equal(together[3, 2], together[4, 2])


def test_lands_exactly_on_the_last_time() -> None:
    seen = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.append(t.max().item())
        return -y

    solution = solve_ivp(f, torch.ones(1, 1, dtype=D), [0.0, 0.7])
    assert solution.reached.tolist() == [0.7] and max(seen) <= 0.7
    assert abs(solution.y[-1].item() - math.exp(-0.7)) < 5e-8


def test_rows_do_not_depend_on_their_mates() -> None:
    """Stiff and easy rows together: bit for bit what each gives alone, also in reverse order."""
    mu = torch.tensor([0.1, 1.0, 10.0, 5.0, 0.5], dtype=D)
    y0 = torch.tensor([[2.0, 0.0]], dtype=D).repeat(5, 1)
    times, close = torch.linspace(0, 3, 5, dtype=D), Adaptive(1e-6, 1e-6)
    for method in ADAPTIVE[1:]:
        together = solve_ivp(van_der_pol(mu), y0, times, method=method, stepping=close)
        assert len(set(together.attempts.tolist())) > 1
        flipped = solve_ivp(van_der_pol(mu.flip(0)), y0, times, method=method, stepping=close)
        assert torch.equal(together.y, flipped.y.flip(1))
        for row in range(5):
            alone = solve_ivp(van_der_pol(mu[row : row + 1]), y0[:1], times, method=method, stepping=close)
            assert torch.equal(together.y[:, row], alone.y[:, 0])
            assert together.attempts[row] == alone.attempts[0] and together.evaluations[row] == alone.evaluations[0]


@pytest.mark.parametrize("poll", [1, 3])
def test_rows_that_have_ended_leave_the_batch(poll: int) -> None:
    """The same bits, with fewer rows to evaluate; outputs between and gradients too."""
    y0 = torch.tensor([[0.1], [0.2], [0.3], [0.5], [0.7]], dtype=D, requires_grad=True)
    times = torch.tensor([[0.0, 2.0], [0.0, 1.0], [3.0, 1.0], [0.0, 0.1], [0.0, 30.0]], dtype=D)
    times = times[:, :1] + torch.linspace(0, 1, 9, dtype=D) * (times[:, 1:] - times[:, :1])
    sizes: list[int] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        sizes.append(y.shape[0])
        return torch.sin(3 * t) * y * (1 - y)

    whole = solve_ivp(f, y0, times, stepping=Adaptive(poll=poll))
    assert set(sizes) == {5}
    sizes.clear()
    parts = solve_ivp(f, y0, times, stepping=Adaptive(poll=poll, compact=True))
    assert set(sizes) == {1, 2, 5} or set(sizes) == {1, 5}
    for name in ("y", "status", "reached", "attempts", "accepted", "evaluations"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    gradients = [torch.autograd.grad(s.y.sum(), y0)[0] for s in (whole, parts)]
    assert torch.equal(*gradients)
    with torch.no_grad():
        assert torch.allclose(
            solve_ivp(f, y0, times, stepping=Adaptive(compact=True)).y, whole.y, rtol=1e-12, atol=1e-12
        )
    with pytest.raises(ValueError, match="compact: expected neither"):
        solve_ivp(f, y0, times, stepping=Adaptive(compact=True), dense=True)


@pytest.mark.parametrize("pid", [(0.0, 1.0, 0.0), (0.4, 0.3, 0.0), (0.2, 0.4, 0.0), (0.1, 0.3, 0.1)])
def test_controllers(pid: tuple[float, float, float]) -> None:
    f, y0 = van_der_pol(10.0), torch.tensor([[2.0, 0.0]], dtype=D)
    truth = odeint(f, y0, [0.0, 20.0], method="dopri8", rtol=1e-11, atol=1e-11)[-1]
    solution = solve_ivp(f, y0, [0.0, 20.0], stepping=Adaptive(1e-7, 1e-7, pid=pid))
    assert (solution.y[-1] - truth).abs().max() < 1e-4
    assert solution.accepted < solution.attempts < 2 * solution.accepted


@pytest.mark.parametrize("name", ADAPTIVE)
def test_evaluations_are_counted_right(name: str) -> None:
    calls = 0

    def f(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return pendulum(t, y)

    y0 = torch.tensor([[1.0, 0.0]], dtype=D)
    solution = solve_ivp(f, y0, [0.0, 4.0], method=name, stepping=Adaptive(1e-5, 1e-5))
    assert solution.evaluations.item() == calls
    calls = 0
    solution = solve_ivp(f, y0, [0.0, 4.0], method=name, stepping=Fixed(5))
    assert solution.evaluations.item() == calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_and_tuples(dtype: torch.dtype) -> None:
    x, level = torch.randn(3, 2, 2, dtype=dtype), torch.zeros(3, dtype=dtype)

    def f(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        assert t.dtype == dtype and (t.ndim == 0 or t.shape == (3, 1, 1))
        return -state[0], state[0].flatten(1).sum(1)

    for rows in (True, False):
        for method in ("rk4", "dopri5"):
            stepping = Fixed(20) if method == "rk4" else Adaptive(1e-6, 1e-6)
            y, integral = odeint(f, (x, level), [0, 1.0], method=method, stepping=stepping, rows=rows)
            assert y.dtype == dtype and y.shape == (2, 3, 2, 2) and integral.shape == (2, 3)
            torch.testing.assert_close(y[-1], x * math.exp(-1), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(integral[-1], x.flatten(1).sum(1) * (1 - math.exp(-1)), rtol=1e-4, atol=1e-5)


def test_one_system_of_any_shape() -> None:
    y0 = torch.tensor(1.5, dtype=D)
    y = odeint(lambda t, y: -y * torch.ones_like(t), y0, [0.0, 1.0], rows=False)
    assert y.shape == (2,) and abs(y[-1].item() - 1.5 * math.exp(-1)) < 1e-7


def test_bfloat16_state() -> None:
    y = odeint(lambda t, y: -y, torch.ones(2, 3, dtype=torch.bfloat16), [0.0, 1.0], rtol=1e-2, atol=1e-2)
    assert y.dtype == torch.bfloat16 and (y[-1].float() - math.exp(-1)).abs().max() < 1e-2


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_empty_batches_and_events(method: str) -> None:
    assert odeint(lambda t, y: -y, torch.ones(0, 3), [0.0, 1.0, 2.0], method=method).shape == (3, 0, 3)
    assert odeint(lambda t, y: -y, torch.ones(2, 0), [0.0, 1.0], method=method).shape == (2, 2, 0)


# ---- how it ends ---------------------------------------------------------------------------------------------------


def test_blow_up_gets_a_status_and_the_others_go_on() -> None:
    y0 = torch.tensor([[1.0], [-1.0], [0.5]], dtype=D)
    times = torch.tensor([0.0, 0.5, 1.5], dtype=D)
    solution = solve_ivp(lambda t, y: y * y, y0, times)
    assert [Status(s) for s in solution.status.tolist()] == [Status.STEP_TOO_SMALL, Status.SUCCESS, Status.SUCCESS]
    assert solution.reached[0] == pytest.approx(1.0) and not solution.success
    truth = y0 / (1 - y0 * times[:, None, None])
    torch.testing.assert_close(solution.y[:2], truth[:2], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(solution.y[2, 1:], truth[2, 1:], rtol=1e-6, atol=1e-6)
    assert solution.y[2, 0].isnan()
    with pytest.raises(SolverError, match=r"1 of 3 rows .*STEP_TOO_SMALL; rows 0") as caught:
        odeint(lambda t, y: y * y, y0, times)
    assert torch.equal(caught.value.solution.y, solution.y) or caught.value.solution.y[2, 0].isnan()


def test_nan_in_the_field() -> None:
    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t > 0.5, torch.full_like(y, math.nan), -y) if t.ndim else -y

    solution = solve_ivp(f, torch.ones(2, 1, dtype=D), torch.tensor([[0.0, 1.0], [0.0, 0.4]], dtype=D))
    assert solution.status.tolist() == [Status.NON_FINITE, Status.SUCCESS]
    assert solution.reached[0] == pytest.approx(0.5, abs=1e-6) and solution.y[-1, 0].isnan()
    whole = solve_ivp(lambda t, y: y * math.nan, torch.ones(1, 1), [0.0, 1.0])
    assert whole.status.tolist() == [Status.NON_FINITE] and whole.accepted.tolist() == [0]
    fixed = solve_ivp(lambda t, y: y * math.nan, torch.ones(1, 1), [0.0, 1.0], method="rk4")
    assert fixed.status.tolist() == [Status.NON_FINITE] and fixed.y[-1].isnan()


def test_limits_on_steps() -> None:
    f, y0 = van_der_pol(10.0), torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=D)
    solution = solve_ivp(f, y0, [0.0, 20.0], stepping=Adaptive(max_steps=30))
    assert solution.status.tolist() == [Status.MAX_STEPS, Status.SUCCESS] and solution.attempts[0] == 30
    assert 0 < solution.reached[0] < 20
    assert solve_ivp(f, y0, [0.0, 20.0], stepping=Adaptive(dt_min=1.0)).status[0] == Status.STEP_TOO_SMALL
    assert solve_ivp(pendulum, y0, [0.0, 1.0], stepping=Adaptive(1e-3, 1e-3, dt_max=0.01)).accepted[0] >= 99


def test_no_time_and_equal_times() -> None:
    y0 = torch.randn(2, 3, dtype=D)
    for method in ("dopri5", "rk4", "dopri8"):
        assert torch.equal(odeint(lambda t, y: -y, y0, [1.0], method=method), y0[None])
        for times in ([1.0, 1.0], [1.0, 1.0, 1.0]):
            solution = solve_ivp(lambda t, y: -y, y0, times, method=method)
            assert torch.equal(solution.y, y0.expand(len(times), 2, 3))
            assert solution.status.tolist() == [0, 0]


def test_tolerances_by_element_and_norms() -> None:
    """Two pendulums in a row, one of them fast: the error is measured where it is asked for, row by row."""
    y0 = torch.tensor([[1.0, 0.0, 2.0, 0.5], [0.3, 0.2, -1.0, 0.0], [2.0, 1.0, 0.0, 3.0]], dtype=D)
    f = lambda t, y: torch.cat([pendulum(t, y[:, :2]), 5 * pendulum(t, y[:, 2:])], 1)  # noqa: E731
    truth = odeint(f, y0, [0.0, 5.0], method="dopri8", rtol=1e-12, atol=1e-12)[-1]
    plain = solve_ivp(f, y0, [0.0, 5.0], stepping=Adaptive(1e-6, 1e-8))
    rms = solve_ivp(f, y0, [0.0, 5.0], stepping=Adaptive(1e-6, torch.full((4,), 1e-8)))
    assert torch.equal(plain.attempts, rms.attempts)
    torch.testing.assert_close(plain.y, rms.y, rtol=1e-12, atol=1e-12)
    loose = torch.tensor([1e-9, 1e-9, 1.0, 1.0])
    for chosen in ({"atol": loose, "rtol": 0.0}, {"norm": lambda error: error[:, :2].abs().amax(1)}):
        stepping = Adaptive(**{"rtol": 1e-9, "atol": 1e-9, **chosen})
        y = solve_ivp(f, y0, [0.0, 5.0], stepping=stepping).y[-1]
        assert (y - truth)[:, :2].abs().max() < 1e-6 < (y - truth)[:, 2:].abs().max()
        alone = torch.cat([solve_ivp(f, row[None], [0.0, 5.0], stepping=stepping).y[-1] for row in y0])
        assert torch.equal(y, alone)


def test_complex_rows() -> None:
    y0 = torch.tensor([[1.0 + 1j], [2.0]], dtype=torch.complex128)
    y = odeint(lambda t, y: (1j * t) * y, y0, [0.0, 2.0], rtol=1e-9, atol=1e-9)[-1]
    torch.testing.assert_close(y, y0 * torch.exp(torch.tensor(2j)), rtol=1e-7, atol=1e-7)


def test_a_jump_at_a_step_is_seen_from_within() -> None:
    """The field jumps at 1/2, where a step ends and the next begins: every method is exact then, FSAL ones too."""
    f = lambda t, y: torch.where(t < 0.5, 1.0, -2.0) * torch.ones_like(y)  # noqa: E731
    for name in TABLEAUS:
        y = odeint(f, torch.zeros(1, 1, dtype=D), [0.0, 1.0, 0.0], method=name, stepping=Fixed(4, perturb=True))
        torch.testing.assert_close(y[:, 0, 0], torch.tensor([0.0, -0.5, 0.0], dtype=D), rtol=0, atol=1e-14)


def test_events_are_checked_where_they_are_made() -> None:
    for arguments in ({"g": 3}, {"g": len, "direction": 2}):
        with pytest.raises(ValueError, match="event: expected a function g and a direction of -1, 0 or 1"):
            Event(**arguments)  # type: ignore[arg-type]


def test_rtol_zero() -> None:
    y = odeint(pendulum, torch.tensor([[1.0, 0.0]], dtype=D), [0.0, 1.0], rtol=0.0, atol=1e-9)
    truth = odeint(pendulum, torch.tensor([[1.0, 0.0]], dtype=D), [0.0, 1.0], method="dopri8", rtol=1e-12, atol=1e-12)
    assert (y - truth).abs().max() < 1e-7


BAD = [
    ({"f": lambda t, y: y[:, :1]}, ValueError, r"field: expected the state's shape \(2, 3\); got \(2, 1\)"),
    ({"f": lambda t, y: 1.0}, TypeError, "field: expected a tensor"),
    ({"t": [0.0, 1.0, 0.5]}, ValueError, "rise or fall"),
    ({"t": [0.0, math.nan]}, ValueError, "finite times"),
    ({"t": torch.zeros(3, 2)}, ValueError, r"\(T,\) or \(2, T\)"),
    ({"t": torch.tensor([0, 1])}, TypeError, "floating-point times"),
    ({"t": []}, ValueError, "T >= 1"),
    ({"y0": torch.ones(2, 3).int()}, TypeError, "floating-point"),
    ({"y0": (torch.ones(2, 3), torch.ones(3))}, ValueError, "one batch size"),
    ({"method": "rk5"}, ValueError, "method: expected one of euler"),
    ({"rtol": 1e-3, "stepping": Fixed()}, ValueError, r"rtol: expected within stepping=Adaptive.*beside Fixed\(\)"),
    ({"rtol": 1e-3, "method": "rk4"}, ValueError, r"stepping: expected Fixed\(...\) for rk4"),
    ({"options": {"steps": 3}}, TypeError, r"odeint: expected stepping=Adaptive\(...\) or Fixed\(...\); got options"),
    ({"params": ()}, TypeError, r"odeint: expected adjoint=Backsolve\(params=...\); got params"),
    ({"adjoint": Backsolve((), "rk4")}, ValueError, r"stepping: expected Fixed\(...\) for rk4"),
    ({"rtol": "small"}, TypeError, "rtol: expected a number or numbers; got 'small'"),
    ({"atol": torch.ones(2)}, ValueError, r"atol: expected what broadcasts against \(2, 3\); got \(2,\)"),
    ({"y0": (torch.ones(2), (torch.ones(2),))}, TypeError, r"y0: .*flat tuple.*; got a tuple of \(.*; a tuple of"),
    ({"f": lambda t, y: 1j * y}, TypeError, "field: expected a real slope"),
    ({"stepping": Adaptive(norm=lambda e: e)}, ValueError, r"norm: expected one number a row, \(2,\); got \(2, 3\)"),
    ({"stepping": Adaptive(first_step=math.nan)}, ValueError, "first_step: expected a number or"),
    ({"stepping": Adaptive(first_step=torch.tensor([0.1, 0.0]))}, ValueError, "first_step: .*none zero or NaN"),
    ({"stepping": Adaptive(first_step=torch.ones(3))}, ValueError, r"first_step: .*\(2,\)"),
]


@pytest.mark.parametrize("change, error, words", BAD, ids=[words for _, _, words in BAD])
def test_bad_input_is_refused_in_words(change: dict, error: type, words: str) -> None:
    arguments = {"f": lambda t, y: -y, "y0": torch.ones(2, 3), "t": [0.0, 1.0], **change}
    with pytest.raises(error, match=words):
        odeint(**arguments)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Adaptive(0.0, 0.0), "nor both zero"),
        (lambda: Adaptive((0.0, 1e-3), (0.0, 0.0)), "nor both zero"),
        (lambda: Adaptive(torch.zeros(2), torch.tensor([0.0, 1.0])), "nor both zero"),
        (lambda: Adaptive(-1.0), "not negative"),
        (lambda: Adaptive(max_steps=0), "max_steps"),
        (lambda: Adaptive(dt_min=1.0, dt_max=0.1), "dt_min"),
        (lambda: Adaptive(grow=0.5), "shrink, grow, safety"),
        (lambda: Adaptive(pid=(1.0,)), "pid: expected three finite numbers"),
        (lambda: Adaptive(pid=(math.nan, 1.0, 0.0)), "pid: expected three finite numbers"),
        (lambda: Adaptive(poll=-1), "Adaptive expects poll to be an integer of at least 1, got -1"),
        (
            lambda: Adaptive(compact=True, atol=torch.ones(2)),
            "compact: expected neither norm nor tolerances",
        ),
        (lambda: Fixed(0), "steps: expected at least 1"),
        (lambda: Fixed(2.5), "steps: expected at least 1, a whole number; got 2.5"),
        (lambda: Fixed("3"), "steps: expected at least 1, a whole number; got '3'"),
        (lambda: Fixed(math.nan), "steps: expected at least 1, a whole number; got nan"),
        (lambda: Fixed(math.inf), "steps: expected at least 1, a whole number; got inf"),
        (lambda: Fixed(step_size=torch.ones(2)), r"step_size: expected a positive number; got tensor"),
        (lambda: Adaptive(max_steps=math.nan), "max_steps >= 1; got 0.0, inf, nan"),
        (lambda: Fixed(step_size=0.0), "step_size: expected a positive number"),
        (lambda: Fixed(step_size="1"), "step_size: expected a positive number; got '1'"),
        (lambda: Fixed(2, 0.1), "steps, step_size: expected one of them; got 2 and 0.1"),
        (lambda: Recompute(0), "Recompute expects every to be an integer of at least 1, got 0"),
        (lambda: Backsolve(stepping=Fixed(3)), r"expected Adaptive\(...\) for an adjoint equation; got Fixed"),
        (lambda: Backsolve(stepping=Adaptive(compile=True)), "expected neither compact nor compile"),
    ],
)
def test_what_does_not_go_together_cannot_be_written(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_options_are_equal_where_their_values_are() -> None:
    """Tensors among them, too."""
    made: list[Callable[[float], Any]] = [
        lambda x: Adaptive(rtol=x),
        lambda x: Adaptive(atol=[1e-3, torch.tensor([x, 1.0])]),
        lambda x: Adaptive(first_step=torch.tensor([x])),
        lambda x: Fixed(step_size=torch.tensor(x)),
        lambda x: Backsolve(params=[torch.tensor([x])]),
    ]
    for i, first in enumerate(made):
        assert first(0.5) == first(0.5) and hash(first(0.5)) == hash(first(0.5)) and first(0.5) != first(0.25)
        assert all(first(0.5) != other(0.5) for other in made[i + 1 :])


@pytest.mark.parametrize("size", [math.inf, 1e12])
def test_a_step_longer_than_the_way_is_one(size: float) -> None:
    y0 = torch.ones(2, 1)
    whole = odeint(lambda t, y: -y, y0, [0.0, 0.5, 0.5], method="rk4", stepping=Fixed(step_size=size))
    assert torch.equal(whole[:2], odeint(lambda t, y: -y, y0, [0.0, 0.5], method="rk4", stepping=Fixed(1)))
    assert torch.equal(whole[2], whole[1])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Adaptive("small"), "rtol: expected a number or numbers; got 'small'"),
        (lambda: Adaptive(norm=3), "norm: expected a function of an error; got an int"),
        (lambda: Adaptive(grow="x"), "grow: expected a number; got a str"),
        (lambda: Adaptive(max_steps="many"), "max_steps: expected a number; got a str"),
        (lambda: Adaptive(pid=("a", 1.0, 0.0)), "pid: expected a number; got a str"),
        (lambda: Adaptive(poll="x"), "Adaptive expects poll to be an integer of at least 1, got 'x'"),
        (lambda: Recompute("x"), "Recompute expects every to be an integer of at least 1, got 'x'"),
        (
            lambda: solve_ivp(pendulum, torch.ones(1, 2), [0.0, 1.0], stepping=Adaptive(first_step="x")),
            "first_step: .*a str",
        ),
    ],
)
def test_kinds_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()


def test_objects_tell_what_was_asked_of_them() -> None:
    assert repr(Adaptive(atol=1e-3, compile=True)) == "Adaptive(atol=0.001, compile=True)"
    assert repr(Adaptive(rtol=torch.ones(2))) == "Adaptive(rtol=tensor([1., 1.]))"
    assert [Fixed(8).count(way) for way in (1.0, -0.5, 0.3, 0.0)] == [8, 4, 3, 1]
    assert [Fixed(step_size=0.25).count(way) for way in (1.0, -0.5, 0.3)] == [4, 2, 2]
