"""compile=True: the same solution as without, whatever is wanted of it, and words for what cannot be compiled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyflowk.solvers import Adaptive, Event, Solution, odeint, solve_ivp
from pyflowk.solvers.ode import compiled
from pyflowk.solvers.ode.checked import Checked
from pyflowk.solvers.ode.control import Clock, numbers
from pyflowk.solvers.ode.methods import tableau

D = torch.float64
METHOD = "bosh3"  # few stages: graphs are made in less time
Y0 = torch.tensor([[2.0, 0.0], [0.5, 0.3], [1.0, -1.0]], dtype=D)
EAGER, COMPILED = Adaptive(1e-5), Adaptive(1e-5, compile=True)
TIMES = torch.tensor([[0.0, 4.0], [0.0, 0.0], [1.0, 0.7]], dtype=D)


class Oscillator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(3.0, dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, v = y[:, 0], y[:, 1]
        return torch.stack([v, self.mu * (1 - x * x) * v - x * torch.cos(t[:, 0])], 1)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where no loop over rows can be written: graphs are made."""
    compiled._compiled.clear()
    monkeypatch.setattr(compiled, "_by_rows", lambda *_: None)
    yield
    compiled._compiled.clear()


@pytest.fixture
def cheaply(graphs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs are run by torch itself: compiling them for real takes too long for every case."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, fullgraph, options: real(f, fullgraph=fullgraph, backend="eager"))


def by_rows(field: Any) -> bool:
    """Whether this field was solved by a loop over rows."""
    return compiled._compiled[compiled._code(field)][METHOD, "rows"] is not None


def test_the_real_compiler(graphs: None, caplog: pytest.LogCaptureFixture) -> None:
    field = Oscillator()
    with torch.no_grad():
        plain, fast = (
            solve_ivp(field, Y0, TIMES, method="heun2", stepping=Adaptive(1e-3, 1e-3, compile=c)) for c in (False, True)
        )
    torch.testing.assert_close(fast.y, plain.y, rtol=1e-10, atol=1e-10)
    for name in ("status", "attempts", "accepted", "evaluations"):
        assert torch.equal(getattr(fast, name), getattr(plain, name))
    assert torch.equal(fast.reached, TIMES[:, -1])
    said = [record.getMessage() for record in caplog.records if record.name == "pyflowk"]
    assert len(said) == 1 and "compiling the field for heun2, which takes from seconds to a minute" in said[0]


def test_rows_do_not_depend_on_their_mates() -> None:
    y0, rate = torch.linspace(-2, 2, 80).reshape(40, 2), torch.linspace(0.1, 5, 40)

    def solve(rows: slice, compile: bool = True) -> Solution:
        own = rate[rows]

        def field(t: Tensor, y: Tensor) -> Tensor:
            return torch.stack([y[:, 1], own * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)

        solution = solve_ivp(field, y0[rows], [0.0, 3.0], method=METHOD, stepping=Adaptive(1e-4, 1e-4, compile=compile))
        assert not compile or by_rows(field)
        return solution

    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(solve(slice(None)))
    finally:
        torch.set_num_threads(before)
    alone, plain = solve(slice(7, 9)), solve(slice(None), compile=False)
    torch.testing.assert_close(results[0].y, plain.y, rtol=1e-4, atol=1e-4)
    assert torch.equal(results[0].y, results[1].y) and torch.equal(results[0].y[:, 7:9], alone.y)
    assert torch.equal(results[0].attempts[7:9], alone.attempts)


class Everything(nn.Module):
    """One formula with all that is read number by number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 3, dtype=D), nn.Linear(3, 4, bias=False, dtype=D)
        self.scale = nn.Parameter(torch.tensor([0.5, -0.2, 0.3, 0.9], dtype=D))
        self.matrix = torch.eye(4, dtype=D)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b, rest = y[:, 0], y[..., 1:2], y[:, 2:]
        net = self.last(torch.tanh(self.first(y)))
        curves = torch.sin(a) + torch.cos(a).exp() - torch.log1p(a * a) / (2 + a.abs()).sqrt() + torch.atan(a)
        curves = curves + torch.nn.functional.softplus(a) - torch.nn.functional.gelu(a)
        powers = (a * a + 1) ** 1.5 + a**2 - (a * a + 1) ** -1 + (a * a + 0.1).pow(0.3) + torch.rsqrt(a * a + 1)
        kinks = torch.where((a > 0.2) & ~(b[:, 0] >= 1), torch.maximum(a, b[:, 0]), a.clamp(-0.3, 0.4)) + a.relu()
        signs = torch.minimum(a, -a) + a.sign() + torch.copysign(a, b.squeeze(1)) - torch.sigmoid(rest.mean(1))
        wide = torch.cat([kinks[:, None], signs.unsqueeze(1), rest.flip(1) if rest.shape[1] == 1 else rest], 1)
        swapped = y.reshape(len(y), 2, 2).transpose(1, 2).flatten(1) @ self.matrix
        split = torch.cat(y.chunk(2, 1)[::-1], 1) + torch.zeros_like(y) + b.expand(-1, 4) * self.scale
        slope = net + torch.stack([curves, powers, kinks, signs], -1) + wide + swapped + split + (y * y).sum(1, True)
        return 0.1 * torch.cos(t) * slope - y


def test_everything_that_is_read_by_rows() -> None:
    field, y0 = Everything(), torch.linspace(-1, 1.3, 20, dtype=D).reshape(5, 4)
    with torch.no_grad():
        for rows in (5, 1):
            plain, fast = (
                solve_ivp(field, y0[:rows], [0.0, 2.0], method=METHOD, stepping=Adaptive(1e-6, 1e-6, compile=c))
                for c in (False, True)
            )
            torch.testing.assert_close(fast.y, plain.y, rtol=1e-11, atol=1e-11)
            assert by_rows(field)


def test_what_changes_between_solves_is_seen() -> None:
    """Numbers in closures, and the parameters."""
    field = Oscillator()
    for number in (0.5, 1.5, 2.5):
        with torch.no_grad():
            field.mu += 0.1
        scaled = lambda t, y, number=number: number * field(t, y)  # noqa: E731

        def closed(t: Tensor, y: Tensor) -> Tensor:
            return number * scaled(t, y)  # noqa: B023

        with torch.no_grad():
            plain, fast = (solve_ivp(closed, Y0, [0.0, 0.5], method=METHOD, stepping=s) for s in (EAGER, COMPILED))
        torch.testing.assert_close(fast.y, plain.y, rtol=1e-10, atol=1e-10)


def test_a_field_may_hold_the_very_state_it_starts_from() -> None:
    y0 = Y0.clone()
    plain, fast = (
        solve_ivp(lambda t, y: torch.sin(y0 - 2 * y), y0, [0.0, 1.0], method=METHOD, stepping=s)
        for s in (EAGER, COMPILED)
    )
    torch.testing.assert_close(fast.y, plain.y, rtol=1e-10, atol=1e-10)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return -y


@pytest.mark.parametrize(
    "field",
    [
        Counts(),
        lambda t, y: -y + 0 * torch.rand(2, dtype=D),
        lambda t, y: y.mean(0) - y,
        lambda t, y: -y.cumsum(1),
        lambda t, y: y @ torch.ones(2, 2000, dtype=D) @ torch.ones(2000, 2, dtype=D),
    ],
)
def test_what_is_not_read_by_rows(field: Any) -> None:
    table, before = tableau("heun2"), Y0.clone()
    clock, rates = Clock.start(TIMES[:, 0], TIMES[:, 1] / 9, TIMES[:, 1]), numbers(EAGER, table, D)
    assert compiled._by_rows(Checked(field), table, "nothing", Y0, -Y0, clock.data, rates) is None
    assert torch.equal(Y0, before)


@pytest.mark.parametrize("way", ["rows", "cheaply"])
@pytest.mark.parametrize("wanted", ["gradient", "between", "dense", "tuple", "failure"])
def test_whatever_is_wanted(wanted: str, way: str, request: pytest.FixtureRequest) -> None:
    if way == "cheaply":
        request.getfixturevalue(way)
    field, times = Oscillator(), TIMES
    if wanted == "between":
        times = TIMES[:, :1] + torch.linspace(0, 1, 40, dtype=D) * (TIMES[:, 1:] - TIMES[:, :1])

    def outcome(compile: bool) -> list[Any]:
        close = Adaptive(1e-5, 1e-5, compile=compile)
        if wanted == "tuple":
            pair = lambda t, s: (torch.cos(t) * s[0] - s[1][:, None], -s[0].sum(1))  # noqa: E731
            return list(odeint(pair, (Y0, Y0[:, 0]), [0.0, 1.0], method=METHOD, stepping=close))
        if wanted == "failure":
            solution = solve_ivp(lambda t, y: y * y, Y0, [0.0, 0.7], method=METHOD, stepping=replace(close, atol=1e-9))
            return [solution.status, solution.y, solution.reached]
        if wanted == "dense":
            with torch.no_grad():
                solution = solve_ivp(field, Y0, times, method=METHOD, stepping=close, dense=True)
            assert solution.dense is not None
            return [solution.dense(torch.linspace(0, 1, 7, dtype=D))]
        with torch.set_grad_enabled(wanted == "gradient"):
            solution = solve_ivp(field, Y0, times, method=METHOD, stepping=close)
        assert int(solution.attempts.max()) > compiled.KEEP["clocks"]  # several calls
        return [solution.y, *(torch.autograd.grad(solution.y.sum(), field.mu) if wanted == "gradient" else ())]

    for fast, plain in zip(outcome(True), outcome(False)):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_what_cannot_be_compiled(cheaply: None) -> None:
    asks = lambda t, y: -y if y.sum().item() > 0 else y  # noqa: E731
    with pytest.raises(RuntimeError, match="compile: the field could not be compiled"):
        solve_ivp(asks, Y0, [0.0, 1.0], method=METHOD, stepping=Adaptive(compile=True))
    with pytest.raises(ValueError, match="compile: expected no events"):
        solve_ivp(asks, Y0, [0.0, 1.0], stepping=Adaptive(compile=True), events=Event(lambda t, y: y[:, 0]))
    for more in ({"norm": lambda error: error[:, 0]}, {"rtol": torch.ones(2)}, {"compact": True}):
        with pytest.raises(ValueError, match="compile: expected"):
            Adaptive(compile=True, **more)


def test_fields_of_one_code_share_their_graphs() -> None:
    def field(rate: float) -> Any:
        return lambda t, y: rate * y

    assert compiled._code(field(1.0)) is compiled._code(field(2.0))
    assert compiled._code(Oscillator()) is compiled._code(Oscillator().forward) is Oscillator.forward.__code__
    assert compiled._code(torch.sin) is compiled._loop.__code__
