"""Arguments and answers that do not fit are named as what the caller sees them, and fields that differentiate work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyflowk.compat import torchdiffeq
from pyflowk.solvers import Adaptive, Backprop, Backsolve, Event, Fixed, Recompute, odeint, sdeint, solve_ivp
from pyflowk.transforms import Continuous

D = torch.float64
Y0 = torch.tensor([[1.0, 0.5], [0.2, -0.3], [0.4, 0.6]], dtype=D)
Answer = Callable[[Tensor], Any]

ANSWERS: dict[str, tuple[Answer, str]] = {
    "shape": (lambda y: y[:, :1], r"field: expected the state's shape \(3, 2\); got \(3, 1\)"),
    "tuple": (lambda y: (y, y), r"field: expected a tensor of the state's shape \(3, 2\); got a tuple of \(a tensor"),
    "numpy": (lambda y: np.zeros((3, 2)), r"shape \(3, 2\); got a numpy array \(3, 2\), float64"),
    "number": (lambda y: 1.0, r"shape \(3, 2\); got a float"),
    "nothing": (lambda y: None, r"shape \(3, 2\); got None"),
    "complex": (lambda y: y + 1j, r"field: expected a real slope, as the state is; got torch.complex128"),
}


@pytest.mark.parametrize("name", list(ANSWERS))
def test_what_a_field_answers_is_named_before_anything_is_made_of_it(name: str) -> None:
    answer, words = ANSWERS[name]
    f = lambda t, y: answer(y)  # noqa: E731
    calls: list[Callable[[], Any]] = [
        lambda: solve_ivp(f, Y0, [0.0, 1.0]), lambda: odeint(f, Y0, [0.0, 1.0], method="rk4"),
        lambda: torchdiffeq.odeint(f, Y0, torch.tensor([0.0, 1.0])),
        lambda: sdeint(lambda t, y: y, f, Y0, [0.0, 1.0]),
    ]  # fmt: skip
    for divergence in ("exact", "hutchinson", "hutch++"):
        for mode in ("forward", "reverse"):
            flow = Continuous(f, divergence=divergence, probes=2, mode=mode, method="rk4", stepping=Fixed(2))
            calls += [lambda flow=flow: flow(Y0), lambda flow=flow: flow.to_data(Y0)]  # type: ignore[misc]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=words):
            call()
    with pytest.raises(TypeError, match="field: expected a tuple of 2 tensors"):
        odeint(lambda t, s: answer(s[0]) if name != "tuple" else s[0], (Y0, Y0[:, 0]), [0.0, 1.0])


@pytest.mark.parametrize("divergence", ["exact", "hutchinson", "hutch++"])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_constant_slopes_and_whole_numbers_are_slopes(divergence: str, mode: str) -> None:
    for f in (lambda t, x: torch.ones_like(x), lambda t, x: torch.ones_like(x, dtype=torch.long)):
        flow = Continuous(f, divergence=divergence, probes=2, mode=mode)
        x, ladj = flow.inverse(Y0)
        torch.testing.assert_close((x, ladj), (Y0 + 1, torch.zeros(3, dtype=D)))


@pytest.mark.parametrize(
    "y0, got",
    [(1.0, "a float"), (np.zeros((3, 2)), r"a numpy array \(3, 2\), float64"), (None, "None"), ("state", "a str"),
     (torch.ones(3, dtype=torch.long), r"a tensor \(3,\), torch.int64"),
     ((Y0, 1.0), r"a tuple of \(a tensor.*; a float\)")],
)  # fmt: skip
def test_states_that_are_none(y0: Any, got: str) -> None:
    f, t = (lambda t, y: y), torch.tensor([0.0, 1.0])
    for call in (
        lambda: solve_ivp(f, y0, t), lambda: odeint(f, y0, t), lambda: sdeint(f, f, y0, t),
        lambda: torchdiffeq.odeint(f, y0, t), lambda: torchdiffeq.odeint_dense(f, y0, t[0], t[1]),
        lambda: torchdiffeq.odeint_event(f, y0, t[0], event_fn=lambda t, y: t - 1),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=f"y0: expected .*; got {got}"):
            call()


def test_times_as_lists_arrays_and_what_is_no_time() -> None:
    f, g = (lambda t, y: -y), (lambda t, y: y[0, 0] - 0.5)
    truth = odeint(f, Y0, torch.tensor([0.0, 1.0], dtype=D))
    for t in ([0, 1], (0.0, 1.0), np.array([0, 1]), np.array([0.0, 1.0])):
        assert torch.equal(odeint(f, Y0, t), truth)
        torch.testing.assert_close(torchdiffeq.odeint(f, Y0, t, options={"jump_t": [0.3]}), truth)
        torch.testing.assert_close(torchdiffeq.odeint_event(f, Y0, t, event_fn=g)[0].item(), 0.6931471805)
    for call in (lambda t: odeint(f, Y0, t), lambda t: torchdiffeq.odeint_event(f, Y0, t, event_fn=g)):
        with pytest.raises(TypeError, match=r"t: expected floating-point times; got .*torch.int64"):
            call(torch.tensor([0, 1]))
    with pytest.raises(TypeError, match=r"t: expected times, \(T,\) or \(3, T\); got a str"):
        odeint(f, Y0, "soon")


@pytest.mark.parametrize(
    "change, error, words",
    [({"f": None}, TypeError, r"f: expected a function of \(t, y\); got None"),
     ({"events": lambda t, y: y[:, 0]}, TypeError, "events: expected an Event, or several of them; got a function"),
     ({"method": None}, ValueError, "method: expected one of euler, .*; got None"),
     ({"stepping": "adaptive"}, TypeError, r"stepping: expected Adaptive\(...\) or Fixed\(...\); got a str"),
     ({"adjoint": "backprop"}, TypeError, r"adjoint: expected Recompute\(\), .*; got 'backprop'"),
     ({"adjoint": Backsolve(())}, ValueError, r"adjoint: expected .*; got Backsolve\(\), which is of odeint"),
     ({"method": "rk4", "stepping": Adaptive()}, ValueError, r"stepping: expected Fixed\(...\) for rk4"),
     ({"rtol": 1e-3}, TypeError, r"solve_ivp: expected stepping=Adaptive\(rtol=...\); got rtol"),
     ({"steps": 3}, TypeError, r"solve_ivp: expected stepping=Fixed\(steps=...\); got steps"),
     ({"compile": True}, TypeError, r"solve_ivp: expected stepping=Adaptive\(compile=...\); got compile"),
     ({"checkpoint_every": 3}, TypeError, r"solve_ivp: expected adjoint=Recompute\(every=...\); got checkpoint_every"),
     ({"max_step": 10}, TypeError, "solve_ivp: expected no such argument; got max_step")],
)  # fmt: skip
def test_arguments_that_are_none(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        solve_ivp(**{"f": lambda t, y: -y, "y0": Y0, "t": [0.0, 1.0], **change})


def test_a_caller_keeps_his_state() -> None:
    """A field asks its state for a gradient: that of the caller has none; a view that is to be negated is one."""

    def downhill(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            return -torch.autograd.grad(y.requires_grad_().square().sum() / 2, y)[0]

    for options in ({}, {"method": "rk4", "stepping": Fixed(40)}, {"method": "adams4", "stepping": Fixed(40)}):
        for y0 in (Y0, torch.complex(Y0, -Y0).conj().imag):
            y = odeint(downhill, y0, [0.0, 1.0], **options)[-1]
            torch.testing.assert_close(y, Y0 * np.exp(-1), rtol=1e-5, atol=1e-5)
            assert not y0.requires_grad


def test_an_event_that_never_occurs_is_named_with_its_values() -> None:
    """Within a bound of steps, not after half a minute; or at the horizon."""

    def below_zero(t: Tensor, y: Tensor) -> Tensor:
        return y + 1.0

    start, few = torch.tensor([1.0], dtype=D), {"max_num_steps": 300}
    words = (
        r"event below_zero: expected its sign to change; got no change in 300 steps from t = 0, where it is \[2.0\], to"
    )
    with pytest.raises(RuntimeError, match=words):
        torchdiffeq.odeint_event(lambda t, y: -y, start, torch.tensor(0.0), event_fn=below_zero, options=few)
    few["step_size"] = 0.01
    with pytest.raises(RuntimeError, match=words + " 3, where"):
        torchdiffeq.odeint_event(
            lambda t, y: -y, start, torch.tensor(0.0), event_fn=below_zero, method="rk4", options=few
        )
    with pytest.raises(RuntimeError, match=r"to 1e\+06, where it is \[2.0\]"):
        torchdiffeq.odeint_event(lambda t, y: 0 * y, start, torch.tensor(0.0), event_fn=below_zero)


def test_an_event_without_a_number_is_named() -> None:
    """NaN has no sign to change; rows that are NaN themselves go their own way."""
    y0 = torch.tensor([[1.0], [2.0]], dtype=D)
    for g, t in ((lambda t, y: torch.log(y[:, 0] - 0.5), 0.7), (lambda t, y: torch.log(y[:, 0] - 3), 0.0)):
        with pytest.raises(ValueError, match=rf"event <lambda>: .*got NaN at t = {t:g}\d* in row 0"):
            solve_ivp(lambda t, y: -y, y0, [0.0, 5.0], events=Event(g), stepping=Adaptive(dt_max=0.1))
    y0[0] = float("nan")
    solution = solve_ivp(lambda t, y: -y, y0, [0.0, 5.0], events=Event(lambda t, y: y[:, 0] - 1))
    assert solution.event_t is not None and solution.event_t[1].item() == pytest.approx(0.6931471805)
    with pytest.raises(TypeError, match="event <lambda>: expected a tensor of one or several numbers; got a bool"):
        torchdiffeq.odeint_event(lambda t, y: -y, y0, torch.tensor(0.0), event_fn=lambda t, y: True)
    empty = solve_ivp(lambda t, y: -y, torch.zeros(0, 2), [0.0, 5.0], events=Event(lambda t, y: y[:, 0] - 1))
    assert empty.event_t is not None and empty.event_t.shape == (0,)


@pytest.mark.parametrize("options", [{}, {"method": "rk4", "stepping": Fixed(40)}], ids=["adaptive", "fixed"])
def test_a_field_that_differentiates_by_a_state_that_requires_grad(options: dict[str, Any]) -> None:
    """The flow along a gradient: -x Q of x Q x / 2, whose solution is y0 exp(-Q t)."""
    Q = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=D, requires_grad=True)
    y0 = Y0.clone().requires_grad_()
    downhill = lambda t, y: -torch.autograd.grad(((y @ Q) * y).sum() / 2, y, create_graph=True)[0]  # noqa: E731
    truth = y0 @ torch.linalg.matrix_exp(-Q)
    wanted = torch.autograd.grad(truth.square().sum(), (y0, Q))
    for package in (odeint, torchdiffeq.odeint):
        for adjoint in (Recompute(), Backprop()) if package is odeint else (None,):
            chosen = {"adjoint": adjoint, **options} if adjoint else {}
            y = package(downhill, y0, torch.tensor([0.0, 1.0], dtype=D), **chosen)[-1]
            torch.testing.assert_close(y, truth, rtol=1e-6, atol=1e-6)
            # the gradient of Q is free along its asymmetric part
            found = torch.autograd.grad(y.square().sum(), (y0, Q))
            torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found[1] + found[1].T, wanted[1] + wanted[1].T, rtol=1e-5, atol=1e-5)


def test_parameters_of_the_continuous_adjoint_in_any_form() -> None:
    """A bare tensor was taken for its rows, and its gradient was zero without a word."""
    W, found = torch.tensor([[0.3, -1.0], [0.8, 0.2]], dtype=D, requires_grad=True), []
    f, t = (lambda t, y: torch.tanh(y @ W)), torch.tensor([0.0, 1.0], dtype=D)
    for params in (W, [W], (W,), (p for p in [W]), (p for p in [W.detach(), W])):
        y = torchdiffeq.odeint_adjoint(f, Y0, t, adjoint_params=params)
        found.append(torch.autograd.grad(y[-1].square().sum(), W)[0])
    y = odeint(f, Y0, t, adjoint=Backsolve(W))
    found.append(torch.autograd.grad(y[-1].square().sum(), W)[0])
    (truth,) = torch.autograd.grad(odeint(f, Y0, t)[-1].square().sum(), W)
    for one in found:
        torch.testing.assert_close(one, truth, rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="params: expected tensors; got a tuple of"):
        torchdiffeq.odeint_adjoint(f, Y0, t, adjoint_params={"W": W})


def test_fields_with_and_without_context() -> None:
    c = torch.full((3, 1), 2.0, dtype=D)

    class Two(torch.nn.Module):
        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return -x

    class Three(torch.nn.Module):
        def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
            return -x if context is None else -x * context

    def scaled(t: Tensor, x: Tensor, factor: float = 1.0) -> Tensor:
        return -factor * x

    for field in (Two(), Three(), torch.compile(Two(), backend="eager"), scaled, lambda t, x: -x):
        flow = Continuous(field)
        z, ladj = flow.inverse(Y0)
        torch.testing.assert_close((z, ladj), (Y0 * np.exp(-1), torch.full((3,), -2.0, dtype=D)), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(flow.to_data(Y0), z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(Continuous(Three()).to_data(Y0, c), Y0 * np.exp(-2), rtol=1e-4, atol=1e-4)
    untold = Continuous(Two(), conditional=False)
    torch.testing.assert_close(untold.to_data(Y0, c), Y0 * np.exp(-1), rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match=r"3 positional .* but 4 were given; .*say conditional=False"):
        Continuous(Two()).to_data(Y0, c)
    with pytest.raises(TypeError, match=r"field: expected a function of \(t, x\) or \(t, x, context\); got a float"):
        Continuous(1.0)


def test_vmap_over_an_adaptive_solve_says_what_to_do_instead() -> None:
    """Fixed steps go under it, and an adaptive solve within what is differentiated; jacobians of one are by rows."""
    fixed = torch.vmap(lambda y: odeint(lambda t, y: -y, y, [0.0, 1.0], method="rk4", stepping=Fixed(20))[-1])
    torch.testing.assert_close(fixed(Y0[:, None])[:, 0], Y0 * np.exp(-1), rtol=1e-5, atol=1e-6)
    for mapped in (
        lambda y: odeint(lambda t, y: -y, y, [0.0, 1.0]), lambda s: odeint(lambda t, y: -s[0] * y, Y0, [0.0, 1.0]),
        torch.func.grad(lambda y: odeint(lambda t, y: -y, y, [0.0, 1.0]).sum()),
    ):  # fmt: skip
        with pytest.raises(
            NotImplementedError, match="which vmap does not let it: expected the mapped dimension among"
        ):
            torch.vmap(mapped)(Y0[:, None])
