"""Gradients of solutions by the field, the start and the times, against the matrix exponential and differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyflowk.solvers import Adaptive, Backprop, Fixed, Recompute, odeint, solve_ivp
from pyflowk.solvers.ode.adjoint import Adjoint
from pyflowk.solvers.ode.stepping import Stepping

D = torch.float64
CLOSE = Adaptive(1e-6, 1e-6)
TIMES = [0.2, 0.5, 0.5, 1.1, 2.0]


def linear() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    A = torch.tensor([[-0.1, 2.0], [-2.0, -0.3]], dtype=D, requires_grad=True)
    y0 = torch.randn(3, 2, generator=generator, dtype=D).requires_grad_()
    return A, y0, torch.tensor(TIMES, dtype=D, requires_grad=True)


def weights(y: Tensor) -> Tensor:
    return torch.cos(torch.arange(y.numel(), dtype=D)).reshape(y.shape)


@pytest.mark.parametrize("adjoint", [Recompute(), Backprop()], ids=str)
@pytest.mark.parametrize("method, steps", [("dopri5", None), ("tsit5", None), ("dopri8", None), ("rk4", 50)])
def test_against_the_matrix_exponential(method: str, steps: int | None, adjoint: Adjoint) -> None:
    A, y0, t = linear()
    exact = torch.stack([y0 @ torch.linalg.matrix_exp(A * (s - t[0])).T for s in t])
    truth = torch.autograd.grad((exact * weights(exact)).sum(), (A, y0, t))
    stepping = Fixed(steps) if steps else Adaptive(1e-9, 1e-11)
    y = odeint(lambda t, y: y @ A.T, y0, t, method=method, stepping=stepping, adjoint=adjoint)
    found = torch.autograd.grad((y * weights(y)).sum(), (A, y0, t))
    torch.testing.assert_close(y, exact, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)


def test_the_values_are_those_of_the_solve_without_gradient() -> None:
    A, y0, t = linear()
    with torch.no_grad():
        plain = odeint(lambda t, y: torch.tanh(y @ A.T), y0, t)
    torch.testing.assert_close(odeint(lambda t, y: torch.tanh(y @ A.T), y0, t), plain, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("stepping", [Fixed(5), Fixed(step_size=0.3)], ids=str)
def test_gradcheck_with_fixed_steps(stepping: Fixed) -> None:
    A, y0, _ = linear()

    def solve(A: Tensor, y0: Tensor, t: Tensor) -> Tensor:
        return odeint(lambda t, y: torch.tanh(y @ A.T) * t, y0, t, method="rk4", stepping=stepping, adjoint=Backprop())

    apart = torch.tensor([0.2, 0.45, 0.9, 1.15], dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(solve, (A, y0, apart), fast_mode=True)
    assert torch.autograd.gradgradcheck(solve, (A, y0, apart), fast_mode=True)


def test_rows_times_of_their_own_have_gradients() -> None:
    A, y0, _ = linear()
    t = torch.tensor([[0.0, 0.4, 1.0], [1.0, 0.5, 0.2], [0.3, 0.3, 0.3]], dtype=D, requires_grad=True)
    exact = torch.stack([
        torch.stack([torch.linalg.matrix_exp(A * (t[b, j] - t[b, 0])) @ y0[b] for b in range(3)]) for j in range(3)
    ])  # fmt: skip
    y = odeint(lambda t, y: y @ A.T, y0, t, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(y, exact, rtol=1e-7, atol=1e-7)
    found = torch.autograd.grad((y * weights(y)).sum(), (A, y0, t))
    truth = torch.autograd.grad((exact * weights(exact)).sum(), (A, y0, t))
    torch.testing.assert_close(found[:2], truth[:2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[2][:2], truth[2][:2], rtol=1e-5, atol=1e-5)


def test_module_parameters_closures_and_rejected_nan() -> None:
    """A step that is rejected because of NaN leaves no NaN in the gradient."""
    scale = torch.tensor(1.0, dtype=D, requires_grad=True)
    y0 = torch.tensor([[0.9], [0.5]], dtype=D, requires_grad=True)
    f = lambda t, y: -scale * torch.sqrt(y)  # noqa: E731  NaN once a stage goes below zero
    solution = solve_ivp(f, y0, [0.0, 1.2], stepping=Adaptive(1e-6, 1e-6, first_step=3.0))
    assert (solution.attempts > solution.accepted).all()
    grads = torch.autograd.grad(solution.y[-1].sum(), (scale, y0))
    root = y0.detach().sqrt() - 0.6
    torch.testing.assert_close(grads[0], (-1.2 * root).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grads[1], root / y0.detach().sqrt(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["autograd", "func"])
@pytest.mark.parametrize("method, stepping", [("dopri5", CLOSE), ("rk4", Fixed(16)), ("adams3", Fixed(16))])
def test_a_field_that_differentiates_is_called_once_a_stage(kind: str, method: str, stepping: Stepping) -> None:
    """Its divergence by autograd.grad had all steps before it computed again; by torch.func it was refused."""
    W = torch.tensor([[0.3, -1.0], [0.8, 0.2]], dtype=D, requires_grad=True)
    calls = []

    def f(t: Tensor, s: Tensor) -> Tensor:
        calls.append(0)
        x = s[:, :2]
        inner = lambda x: torch.sin(x @ W.T)  # noqa: E731
        if kind == "func":
            value, pull = torch.func.vjp(inner, x)
            (slope,) = pull(torch.ones_like(x))
        else:
            with torch.enable_grad():
                x = x if x.requires_grad else x.detach().requires_grad_()
                value = inner(x)
                (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return torch.cat([value, slope.sum(1, keepdim=True)], 1)

    y0, found = torch.tensor([[1.0, 0.3, 0.0], [-0.4, 0.1, 0.0]], dtype=D), []
    for adjoint in (Recompute(), Backprop()):
        calls.clear()
        solution = solve_ivp(f, y0, [0.0, 1.0], adjoint=adjoint, method=method, stepping=stepping)
        most = 2 * int(solution.evaluations.max()) + 1  # an adaptive solve is made twice
        found.append(torch.autograd.grad(solution.y[-1].square().sum(), W)[0])
        assert len(calls) <= most + 1
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_no_graph_without_gradient() -> None:
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        assert not odeint(lambda t, y: net(y), torch.ones(1, 2), [0.0, 1.0]).requires_grad
    assert odeint(lambda t, y: net(y), torch.ones(1, 2), [0.0, 1.0], rtol=1e-4, atol=1e-4).requires_grad
    assert not odeint(lambda t, y: -y, torch.ones(1, 2), [0.0, 1.0]).requires_grad


@pytest.mark.parametrize("method, stepping", [("dopri5", CLOSE), ("rk4", Fixed(10)), ("adams4", Fixed(15))])
def test_forward_and_functional_derivatives(method: str, stepping: Stepping) -> None:
    """y' = -a y^2 is y / (1 + a t y): derivatives in y and in what the field has captured, by every kind of them."""
    y0, a = torch.tensor([[1.0], [2.0]], dtype=D), torch.tensor(0.7, dtype=D)
    exact = lambda y, a: y / (1 + a * y)  # noqa: E731

    def solve(y: Tensor, a: Tensor) -> Tensor:
        return solve_ivp(lambda t, y: -a * y * y, y, [0.0, 1.0], method=method, stepping=stepping).y[-1]

    close = {"rtol": 1e-3, "atol": 1e-3} if stepping is not CLOSE else {"rtol": 1e-4, "atol": 1e-4}
    tangents = torch.tensor([[0.3], [-1.0]], dtype=D), torch.tensor(2.0, dtype=D)
    torch.testing.assert_close(torch.func.jvp(solve, (y0, a), tangents), torch.func.jvp(exact, (y0, a), tangents),
                               **close)  # fmt: skip
    with torch.autograd.forward_ad.dual_level():  # the captured parameter alone
        tangent = torch.autograd.forward_ad.unpack_dual(
            solve(y0, torch.autograd.forward_ad.make_dual(a, tangents[1]))
        ).tangent
    torch.testing.assert_close(tangent, torch.func.jvp(lambda a: exact(y0, a), (a,), tangents[1:])[1], **close)
    derivative = torch.func.hessian if stepping is not CLOSE else torch.func.jacrev
    found = derivative(lambda y, a: solve(y, a).sum(), (0, 1))(y0, a)
    torch.testing.assert_close(found, derivative(lambda y, a: exact(y, a).sum(), (0, 1))(y0, a), **close)


@pytest.mark.parametrize("method", ["euler", "adams3"])
def test_fixed_steps_are_one_graph(method: str) -> None:
    f = lambda y: odeint(lambda t, y: torch.sin(y) * t, y, [0.0, 0.4, 1.0], method=method, stepping=Fixed(2))  # noqa: E731
    y0 = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="eager")(y0), f(y0))
