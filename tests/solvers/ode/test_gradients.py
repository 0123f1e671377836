"""Gradients of solutions by the field, the start and the times, against the matrix exponential and differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyflowk.solvers import odeint, solve_ivp

D = torch.float64
TIMES = [0.2, 0.5, 0.5, 1.1, 2.0]


def linear() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    A = torch.tensor([[-0.1, 2.0], [-2.0, -0.3]], dtype=D, requires_grad=True)
    y0 = torch.randn(3, 2, generator=generator, dtype=D).requires_grad_()
    return A, y0, torch.tensor(TIMES, dtype=D, requires_grad=True)


def weights(y: Tensor) -> Tensor:
    return torch.cos(torch.arange(y.numel(), dtype=D)).reshape(y.shape)


@pytest.mark.parametrize("adjoint", ["checkpoint", "backprop"])
@pytest.mark.parametrize("method, steps", [("dopri5", None), ("tsit5", None), ("dopri8", None), ("rk4", 50)])
def test_against_the_matrix_exponential(method: str, steps: int | None, adjoint: str) -> None:
    A, y0, t = linear()
    exact = torch.stack([y0 @ torch.linalg.matrix_exp(A * (s - t[0])).T for s in t])
    truth = torch.autograd.grad((exact * weights(exact)).sum(), (A, y0, t))
    options = {"steps": steps} if steps else {}
    y = odeint(lambda t, y: y @ A.T, y0, t, method=method, rtol=1e-9, atol=1e-11, adjoint=adjoint, options=options)
    found = torch.autograd.grad((y * weights(y)).sum(), (A, y0, t))
    torch.testing.assert_close(y, exact, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method, options", [("dopri5", {}), ("bosh3", {}), ("rk4", {"steps": 7})])
def test_adjoints_agree_to_the_last_bit_or_two(method: str, options: dict) -> None:
    A, y0, t = linear()
    results = []
    for adjoint, every in (("backprop", None), ("checkpoint", None), ("checkpoint", 1), ("checkpoint", 3)):
        y = odeint(lambda t, y: torch.tanh(y @ A.T) * t, y0, t, method=method, adjoint=adjoint, rtol=1e-6, atol=1e-6,
                   options={**options, "checkpoint_every": every})  # fmt: skip
        results.append(torch.autograd.grad((y * weights(y)).sum(), (A, y0, t)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-12, atol=1e-12)


def test_the_values_are_those_of_the_solve_without_gradient() -> None:
    A, y0, t = linear()
    with torch.no_grad():
        plain = odeint(lambda t, y: torch.tanh(y @ A.T), y0, t)
    torch.testing.assert_close(odeint(lambda t, y: torch.tanh(y @ A.T), y0, t), plain, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("options", [{"steps": 5}, {"step_size": 0.3}])
def test_gradcheck_with_fixed_steps(options: dict) -> None:
    A, y0, _ = linear()

    def solve(A: Tensor, y0: Tensor, t: Tensor) -> Tensor:
        return odeint(lambda t, y: torch.tanh(y @ A.T) * t, y0, t, method="rk4", options=options, adjoint="backprop")

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
    solution = solve_ivp(f, y0, [0.0, 1.2], first_step=3.0, rtol=1e-6, atol=1e-6)
    assert (solution.attempts > solution.accepted).all()
    grads = torch.autograd.grad(solution.y[-1].sum(), (scale, y0))
    root = y0.detach().sqrt() - 0.6
    torch.testing.assert_close(grads[0], (-1.2 * root).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grads[1], root / y0.detach().sqrt(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["autograd", "func"])
@pytest.mark.parametrize("options", [{}, {"method": "rk4", "steps": 16}, {"method": "adams3", "steps": 16}], ids=str)
def test_a_field_that_differentiates_is_called_once_a_stage(kind: str, options: dict) -> None:
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
    for adjoint in ("checkpoint", "backprop"):
        calls.clear()
        solution = solve_ivp(f, y0, [0.0, 1.0], adjoint=adjoint, **{"rtol": 1e-6, "atol": 1e-6, **options})
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


@pytest.mark.parametrize("options", [{}, {"method": "rk4", "steps": 10}, {"method": "adams4", "steps": 15}], ids=str)
def test_forward_and_functional_derivatives(options: dict) -> None:
    """y' = -a y^2 is y / (1 + a t y): derivatives in y and in what the field has captured, by every kind of them."""
    y0, a = torch.tensor([[1.0], [2.0]], dtype=D), torch.tensor(0.7, dtype=D)
    exact = lambda y, a: y / (1 + a * y)  # noqa: E731

    def solve(y: Tensor, a: Tensor) -> Tensor:
        return solve_ivp(lambda t, y: -a * y * y, y, [0.0, 1.0], **{"rtol": 1e-6, "atol": 1e-6, **options}).y[-1]

    close = {"rtol": 1e-3, "atol": 1e-3} if options else {"rtol": 1e-4, "atol": 1e-4}
    tangents = torch.tensor([[0.3], [-1.0]], dtype=D), torch.tensor(2.0, dtype=D)
    torch.testing.assert_close(torch.func.jvp(solve, (y0, a), tangents), torch.func.jvp(exact, (y0, a), tangents),
                               **close)  # fmt: skip
    with torch.autograd.forward_ad.dual_level():  # the captured parameter alone
        tangent = torch.autograd.forward_ad.unpack_dual(
            solve(y0, torch.autograd.forward_ad.make_dual(a, tangents[1]))
        ).tangent
    torch.testing.assert_close(tangent, torch.func.jvp(lambda a: exact(y0, a), (a,), tangents[1:])[1], **close)
    derivative = torch.func.hessian if options else torch.func.jacrev
    found = derivative(lambda y, a: solve(y, a).sum(), (0, 1))(y0, a)
    torch.testing.assert_close(found, derivative(lambda y, a: exact(y, a).sum(), (0, 1))(y0, a), **close)


@pytest.mark.parametrize("method", ["euler", "adams3"])
def test_fixed_steps_are_one_graph(method: str) -> None:
    f = lambda y: odeint(lambda t, y: torch.sin(y) * t, y, [0.0, 0.4, 1.0], method=method, options={"steps": 2})  # noqa: E731
    y0 = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="eager")(y0), f(y0))
