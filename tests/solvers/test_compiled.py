"""compile=True: the same solution as without, whatever is wanted of it, and words for what cannot be compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyflowk.solvers import Event, compiled, odeint, solve_ivp

D = torch.float64
METHOD = "bosh3"  # few stages: graphs are made in less time
Y0 = torch.tensor([[2.0, 0.0], [0.5, 0.3], [1.0, -1.0]], dtype=D)
TIMES = torch.tensor([[0.0, 4.0], [0.0, 0.0], [1.0, 0.7]], dtype=D)


class Oscillator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(3.0, dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, v = y[:, 0], y[:, 1]
        return torch.stack([v, self.mu * (1 - x * x) * v - x * torch.cos(t[:, 0])], 1)


@pytest.fixture
def cheaply(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The graphs are made, but run by torch itself: compiling them for real takes too long for every case."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, fullgraph, options: real(f, fullgraph=fullgraph, backend="eager"))
    compiled._compiled.clear()
    yield
    compiled._compiled.clear()


def test_the_real_compiler() -> None:
    field = Oscillator()
    with torch.no_grad():
        plain, fast = (
            solve_ivp(field, Y0, TIMES, method=METHOD, rtol=1e-5, atol=1e-5, compile=c) for c in (False, True)
        )
    torch.testing.assert_close(fast.y, plain.y, rtol=1e-10, atol=1e-10)
    for name in ("status", "attempts", "accepted", "evaluations"):
        assert torch.equal(getattr(fast, name), getattr(plain, name))
    assert torch.equal(fast.reached, TIMES[:, -1])


@pytest.mark.parametrize("wanted", ["gradient", "between", "dense", "tuple", "failure"])
def test_whatever_is_wanted(wanted: str, cheaply: None) -> None:
    field, times = Oscillator(), TIMES
    if wanted == "between":
        times = TIMES[:, :1] + torch.linspace(0, 1, 40, dtype=D) * (TIMES[:, 1:] - TIMES[:, :1])

    def outcome(compile: bool) -> list[Any]:
        options = {"compile": compile}
        if wanted == "tuple":
            pair = lambda t, s: (torch.cos(t) * s[0] - s[1][:, None], -s[0].sum(1))  # noqa: E731
            return list(odeint(pair, (Y0, Y0[:, 0]), [0.0, 1.0], method=METHOD, rtol=1e-5, atol=1e-5, options=options))
        if wanted == "failure":
            solution = solve_ivp(lambda t, y: y * y, Y0, [0.0, 0.7], method=METHOD, rtol=1e-5, compile=compile)
            return [solution.status, solution.y, solution.reached]
        if wanted == "dense":
            with torch.no_grad():
                solution = solve_ivp(field, Y0, times, method=METHOD, rtol=1e-5, atol=1e-5, dense=True, **options)
            assert solution.dense is not None
            return [solution.dense(torch.linspace(0, 1, 7, dtype=D))]
        with torch.set_grad_enabled(wanted == "gradient"):
            solution = solve_ivp(field, Y0, times, method=METHOD, rtol=1e-5, atol=1e-5, **options)
        assert int(solution.attempts.max()) > compiled.KEEP["clocks"]  # several graphs
        return [solution.y, *(torch.autograd.grad(solution.y.sum(), field.mu) if wanted == "gradient" else ())]

    for fast, plain in zip(outcome(True), outcome(False)):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_what_cannot_be_compiled(cheaply: None) -> None:
    asks = lambda t, y: -y if y.sum().item() > 0 else y  # noqa: E731
    with pytest.raises(RuntimeError, match="compile: the field could not be compiled"):
        solve_ivp(asks, Y0, [0.0, 1.0], method=METHOD, compile=True)
    for more, words in [
        ({"events": Event(lambda t, y: y[:, 0])}, "no events"),
        ({"compact": True}, "no compact"),
        ({"method": "rk4"}, "expected an adaptive method"),
    ]:
        with pytest.raises(ValueError, match=f"compile: .*{words}"):
            solve_ivp(lambda t, y: -y, Y0, [0.0, 1.0], compile=True, **more)


def test_fields_of_one_code_share_their_graphs() -> None:
    def field(rate: float) -> Any:
        return lambda t, y: rate * y

    assert compiled._code(field(1.0)) is compiled._code(field(2.0))
    assert compiled._code(Oscillator()) is compiled._code(Oscillator().forward) is Oscillator.forward.__code__
    assert compiled._code(torch.sin) is compiled._loop.__code__
