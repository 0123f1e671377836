"""Code written for torchdiffeq gives torchdiffeq's answers after the change of one import."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.compat import torchdiffeq as ours

theirs = pytest.importorskip("torchdiffeq")
D = torch.float64


class Field(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        assert t.ndim == 0
        return self.net(torch.cat([y, t.expand(*y.shape[:-1], 1)], -1))


@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize(
    "method, options",
    [("dopri5", {}), ("dopri8", {}), ("bosh3", {}), ("adaptive_heun", {}), (None, {}),
     ("rk4", {"step_size": 0.05}), ("midpoint", {"step_size": 0.005})],
)  # fmt: skip
def test_values_and_gradients(interface: str, method: str | None, options: dict[str, Any]) -> None:
    f, t = Field(), torch.tensor([0.0, 0.5, 1.0], dtype=D)
    y0 = torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=D, requires_grad=True)
    found = []
    tolerance = 1e-8 if method == "bosh3" else 1e-6  # theirs passes the last time and interpolates back
    for package in (ours, theirs):
        y = getattr(package, interface)(f, y0, t, rtol=tolerance, atol=tolerance, method=method, options=options)
        found.append([y, *torch.autograd.grad(y[1:].pow(2).sum(), [y0, *f.parameters()])])
    torch.testing.assert_close(*found, rtol=2e-4, atol=2e-4)


def test_tuples_and_times_that_fall() -> None:
    state = torch.ones(3, dtype=D), torch.zeros((), dtype=D)
    f = lambda t, s: (-s[0] * t, s[0].sum())  # noqa: E731
    t = torch.tensor([1.0, 0.4, 0.0], dtype=D)
    for a, b in zip(ours.odeint(f, state, t), theirs.odeint(f, state, t)):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_events() -> None:
    results = []
    for package in (ours, theirs):
        height = torch.tensor(2.0, dtype=D, requires_grad=True)
        state = height, torch.zeros((), dtype=D)
        f = lambda t, s: (s[1], torch.full_like(s[1], -9.81))  # noqa: E731
        t, y = package.odeint_event(f, state, torch.tensor(0.0, dtype=D), event_fn=lambda t, s: s[0])
        (slope,) = torch.autograd.grad(t + y[1][-1], height)
        results.append([t, y[0], y[1], slope])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_several_events_are_told_apart_by_their_signs_at_the_start() -> None:
    """One falls to zero late, one rises to it early: the sooner counts, in either direction of time."""
    f = lambda t, y: torch.ones_like(y)  # noqa: E731
    either = lambda t, y: torch.stack([5 - y[0], y[0] - 3])  # noqa: E731
    for reverse, start in ((False, 1.0), (True, 4.0)):
        found = [
            package.odeint_event(f, torch.tensor([start], dtype=D), torch.tensor(0.5, dtype=D), event_fn=either,
                                 reverse_time=reverse)
            for package in (ours, theirs)
        ]  # fmt: skip
        torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
        assert found[0][1][-1].item() == pytest.approx(3.0)


def swing(jumps: bool, as_tuple: bool) -> Any:
    """Two coupled numbers, driven; with a jump in time at 1/4 or without."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        push = torch.where(t < 0.25, 1.0, -2.0) if jumps else torch.cos(3 * t)
        return torch.stack([y[1], -torch.sin(y[0])]) + 0.3 * push

    def apart(t: Tensor, s: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        found = f(t, torch.stack([s[0], s[1][0]]))
        return found[0], found[1:]

    return apart if as_tuple else f


def largest(error: Any) -> Tensor:
    parts = (error,) if isinstance(error, Tensor) else error
    return torch.stack([part.abs().max() for part in parts]).max()


def eight_steps(f: Any, y: Any, t: Tensor) -> Tensor:
    return torch.linspace(t[0].item(), t[-1].item(), 9, dtype=D)


@pytest.mark.parametrize(
    "arguments, as_tuple",
    [
        ({"options": {"jump_t": torch.tensor([0.25, 2.0])}, "method": "dopri5"}, False),
        ({"options": {"jump_t": torch.tensor([0.25])}, "method": "dopri8", "interface": "odeint_adjoint"}, True),
        ({"options": {"step_t": torch.tensor([0.25])}, "method": "dopri5"}, True),
        ({"options": {"norm": largest}, "method": "dopri5"}, True),
        ({"options": {"norm": largest}, "method": "dopri5", "interface": "odeint_adjoint"}, False),
        ({"rtol": torch.tensor(1e-7), "atol": torch.tensor(1e-7)}, True),
        ({"rtol": torch.tensor([1e-7, 1e-8])}, False),
        ({"rtol": (1e-8, torch.tensor([1e-7])), "atol": (1e-8, 1e-7)}, True),
        ({"method": "fehlberg2", "rtol": 1e-6, "atol": 1e-6}, False),
        ({"options": {"grid_constructor": eight_steps}, "method": "rk4"}, True),
        ({"options": {"step_size": 0.125, "perturb": True}, "method": "midpoint"}, False),
        ({"options": {"step_size": 0.125, "perturb": True}, "method": "rk4"}, True),
        ({"interface": "odeint_adjoint", "adjoint_rtol": 1e-8, "adjoint_atol": 1e-8, "adjoint_method": "dopri8",
          "adjoint_options": {"norm": "seminorm"}}, False),
    ],
    ids=["jump", "jump-adjoint", "step", "norm", "norm-adjoint", "0-d", "by element", "tuple", "fehlberg2", "grid",
         "perturb-midpoint", "perturb-rk4", "adjoint"],
)  # fmt: skip
@pytest.mark.parametrize("falls", [False, True], ids=["rises", "falls"])
def test_options(arguments: dict[str, Any], as_tuple: bool, falls: bool) -> None:
    chosen = {"rtol": 1e-7, "atol": 1e-7, **arguments}
    interface = chosen.pop("interface", "odeint")
    if interface == "odeint_adjoint":
        chosen["adjoint_params"] = ()
    f = swing(not {"jump_t", "step_t", "perturb"}.isdisjoint(chosen.get("options", {})), as_tuple)
    times = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=D)
    y0 = torch.tensor([1.0, 0.5], dtype=D, requires_grad=True)
    state, found = (y0[0], y0[1:]) if as_tuple else y0, []
    for package in (ours, theirs):
        y = getattr(package, interface)(f, state, times.flip(0) if falls else times, **chosen)
        y = torch.cat([part.reshape(4, -1) for part in y], 1) if as_tuple else y
        found.append([y, *torch.autograd.grad(y.pow(2).sum(), y0)])
    torch.testing.assert_close(*found, rtol=3e-4, atol=3e-4)


def test_a_small_state_beside_a_large_one_keeps_its_tolerance() -> None:
    """A tuple's error is the largest of its states': a clock is not lost among ten thousand numbers at rest."""
    state = torch.zeros(10_000, dtype=D), torch.tensor([1.0, 0.0], dtype=D)
    f = lambda t, s: (torch.zeros_like(s[0]), torch.stack([s[1][1], -s[1][0]]))  # noqa: E731
    t = torch.tensor([0.0, 10.0], dtype=D)
    y = ours.odeint(f, state, t, rtol=1e-6, atol=1e-6)[1][-1]
    torch.testing.assert_close(y, torch.stack([t[1].cos(), -t[1].sin()]), rtol=0, atol=2e-5)


def test_complex_states() -> None:
    y0 = torch.tensor([1.0 + 0.5j, -0.3j], dtype=torch.complex128, requires_grad=True)
    H = torch.tensor([[1.0, 0.3 - 0.2j], [0.3 + 0.2j, -0.5]], dtype=torch.complex128)
    t, found = torch.tensor([0.0, 0.7, 2.0], dtype=D), []
    for package in (ours, theirs):
        y = package.odeint(lambda t, y: -1j * (H @ y), y0, t, rtol=1e-9, atol=1e-9)
        found.append([y, *torch.autograd.grad((y[1:].real ** 2).sum(), y0)])
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
    exact = torch.linalg.matrix_exp(-2j * H) @ y0
    torch.testing.assert_close(found[0][0][-1], exact, rtol=1e-8, atol=1e-8)


def test_events_with_fixed_steps_jumps_and_at_once() -> None:
    fall = lambda t, y: torch.stack([y[1], torch.where(t < 0.3, -9.81, -4.0).to(D)])  # noqa: E731
    zero = torch.tensor(0.0, dtype=D)
    for chosen, y0 in (
        ({"method": "rk4", "options": {"step_size": 0.01, "interp": "cubic"}}, [2.0, 0.0]),
        ({"method": "dopri5", "options": {"jump_t": torch.tensor([0.3])}}, [2.0, 0.0]),
        ({}, [0.0, 1.0]),
    ):
        found = []
        for package in (ours, theirs):
            state = torch.tensor(y0, dtype=D, requires_grad=True)
            t, y = package.odeint_event(fall, state, zero, event_fn=lambda t, y: y[0], **chosen)
            found.append([t, y.detach(), *(torch.autograd.grad(t + y[1, 1], state) if chosen else ())])
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_dense_output() -> None:
    y0, ends = torch.tensor([1.0, 0.5], dtype=D), torch.tensor([0.0, 2.0], dtype=D)
    f = lambda t, y: torch.stack([y[1], -torch.sin(y[0])])  # noqa: E731
    a, b = (package.odeint_dense(f, y0, *ends, rtol=1e-9, atol=1e-9) for package in (ours, theirs))
    for t in torch.tensor([0.1, 0.77, 1.5], dtype=D):
        torch.testing.assert_close(a(t), b(t), rtol=1e-6, atol=1e-6)


def test_callbacks_are_not_passed_over_in_silence() -> None:
    f = Field()
    f.callback_step = lambda t, y, h: None  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="callback_step of the field are not called"):
        ours.odeint(f, torch.zeros(1, 2, dtype=D), torch.tensor([0.0, 1.0], dtype=D))


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="options: expected some of"):
        ours.odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), options={"steps_size": 1})
    with pytest.raises(ValueError, match="method: expected one of"):
        ours.odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), method="scipy_solver")
    with pytest.raises(ValueError, match=r"expected an nn.Module"):
        ours.odeint_adjoint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]))
