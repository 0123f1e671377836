"""Continuous flows against closed forms: Gaussians, the integral of a density, Hutchinson's mean and variance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.nets import ConvField, MLPField
from pyflowk.objectives import rnode
from pyflowk.ops.cnf_trajectory import MOST_STAGES, cnf_trajectory
from pyflowk.ops.divergence import draw_probes, exact_divergence, hutchinson, hutchplusplus
from pyflowk.solvers import TABLEAUS, Adaptive, Backprop, Backsolve, Fixed, Recompute
from pyflowk.transforms import Compose, Continuous, observed

A = torch.tensor([[0.5, -1.2, 0.3], [0.8, -0.4, 0.1], [0.2, 0.6, -0.7]], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def linear(t: Tensor, x: Tensor) -> Tensor:
    return x @ A.to(x).t()


def field(features: int = 2, **options: object) -> MLPField:
    """A field away from its zero start."""
    torch.manual_seed(0)
    made = MLPField(features, **{"width": 16, **options})  # type: ignore[arg-type]
    with torch.no_grad():
        for p in made.parameters():
            p += 0.4 * torch.randn(p.shape, generator=seeded()) / max(1, p[:1].numel()) ** 0.5
    return made.double()


def hidden(inner: MLPField) -> object:
    """The same field as any callable: no kernel, no closed divergence."""
    return lambda t, x: inner(t, x)


@pytest.mark.parametrize("method, stepping", [("dopri5", Adaptive(1e-8, 1e-8)), ("rk4", Fixed(40))])
def test_a_linear_field_makes_a_gaussian(method: str, stepping: Adaptive | Fixed) -> None:
    flow = Flow(
        DiagonalGaussian((3,)).double(),
        Continuous(linear, method=method, stepping=stepping),
    )
    x, root = normal(20, 3), torch.linalg.matrix_exp(A)
    exact = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), root @ root.t()).log_prob(x)
    torch.testing.assert_close(flow.log_prob(x), exact, rtol=1e-5, atol=1e-6)


def test_a_density_integrates_to_one() -> None:
    flow = Flow(DiagonalGaussian((2,)).double(), Continuous(field(), method="rk4", stepping=Fixed(10)))
    side = torch.linspace(-9, 9, 181, dtype=torch.float64)
    with torch.no_grad():
        log_prob = flow.log_prob(torch.cartesian_prod(side, side))
    assert float(log_prob.exp().sum() * 0.1**2) == pytest.approx(1, abs=1e-4)


def test_the_round_trip_follows_the_tolerance() -> None:
    x, errors = normal(16, 2), []
    for rtol in (1e-3, 1e-5, 1e-7):
        flow = Continuous(field(), stepping=Adaptive(rtol, rtol))
        with torch.no_grad():
            errors.append(float((flow.to_data(flow(x)[0]) - x).abs().max()))
        assert errors[-1] < 10 * rtol
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_hutchinson_has_the_right_mean_and_variance(noise: str, mode: str) -> None:
    n, symmetric = 20000, (A + A.t()) / 2
    x = torch.zeros(n, 3, dtype=torch.float64)
    _, estimates, norms = hutchinson(lambda x: x @ A.t(), x, draw_probes(x, 1, noise, seeded()), mode)
    off = symmetric - torch.diag(symmetric.diagonal())
    variance = 2 * float((off if noise == "rademacher" else symmetric).square().sum())
    assert abs(float(estimates.mean() - A.trace())) < 4 * math.sqrt(variance / n)
    assert float(estimates.var()) == pytest.approx(variance, rel=0.1)
    assert float(norms.mean()) == pytest.approx(float(A.square().sum()), rel=0.05)


def test_hutchplusplus_is_unbiased_and_exact_for_low_rank() -> None:
    x = torch.zeros(20000, 3, dtype=torch.float64)
    estimates = hutchplusplus(lambda x: x @ A.t(), x, draw_probes(x, 2, generator=seeded()))[1]
    assert abs(float(estimates.mean() - A.trace())) < 4 * float(estimates.std()) / math.sqrt(len(x))
    thin = torch.outer(A[0], A[1])
    low = hutchplusplus(lambda x: x @ thin, x[:5], draw_probes(x[:5], 2, generator=seeded()))[1]
    torch.testing.assert_close(low, thin.trace().expand(5))


@pytest.mark.parametrize("time", ["none", "concat", "concatsquash"])
@pytest.mark.parametrize("times", [torch.tensor(0.3), torch.tensor([0.1, 0.5, 0.9])], ids=["one", "rows"])
@pytest.mark.parametrize("image", [False, True], ids=["vector", "image"])
def test_tangents_by_hand_are_those_of_forward_mode(image: bool, times: Tensor, time: str) -> None:
    torch.manual_seed(0)
    options = {"width": 8, "depth": 2, "time": time, "activation": "silu", "context_dim": 2}
    net = (ConvField if image else MLPField)(3, **options).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.5)
    shape = (3, 4, 4) if image else (3,)
    x, e, context = normal(3, *shape), normal(3, 2, *shape, seed=2), normal(3, 2, seed=3)
    images = [torch.func.jvp(lambda x: net(times, x, context), (x,), (e[:, k],))[1] for k in range(2)]
    found = net.with_tangents(times, x, e, context)
    torch.testing.assert_close(found, (net(times, x, context), torch.stack(images, 1)))


@pytest.mark.parametrize("activation", ["tanh", "softplus", "silu", "elu", "sin"])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_closed_divergence_is_the_exact_one(depth: int, activation: str) -> None:
    for time in ("none", "concat", "concatsquash"):
        net = field(4, depth=depth, activation=activation, time=time, context_dim=3)
        x, c = normal(5, 4), normal(5, 3)
        value, divergence, _ = exact_divergence(lambda x, net=net, c=c: net(0.3, x, c), x)
        torch.testing.assert_close(net.with_divergence(0.3, x, c), (value, divergence))
    with pytest.raises(ValueError, match="at most two hidden layers"):
        net.with_divergence(torch.zeros(5), x, c)


@pytest.mark.parametrize("options", [
    {"divergence": "exact"}, {"divergence": "hutchinson", "probes": 2}, {"divergence": "exact", "method": "midpoint"},
])  # fmt: skip
@pytest.mark.parametrize("activation, time", [("tanh", "concatsquash"), ("sin", "concat"), ("elu", "none")])
def test_the_kernel_is_the_solver_with_its_gradient(options: dict, activation: str, time: str) -> None:
    inner = field(2, depth=2, activation=activation, time=time)
    results = []
    for net in (inner, hidden(inner)):
        flow = Continuous(net, **{"method": "rk4", "stepping": Fixed(3), "adjoint": Backprop(), **options})
        x = normal(6, 2).requires_grad_()
        with observed(flow) as solves:
            z, ladj = flow(x, None, seeded())
        loss = z.sin().sum() + ladj.sum() + solves[0].kinetic.sum() + solves[0].jacobian.sum()
        results.append((z, ladj, *solves[0], *torch.autograd.grad(loss, (x, *inner.parameters()))))
    for kernel, solver in zip(*results, strict=True):
        torch.testing.assert_close(kernel, solver, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", [name for name, table in TABLEAUS.items() if len(table.a) - 1 <= MOST_STAGES])
def test_the_kernel_takes_any_short_method_as_data(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, calls = field(3, depth=2), []
    counted = lambda *args, **options: calls.append(0) or cnf_trajectory(*args, **options)  # noqa: E731
    monkeypatch.setattr("pyflowk.transforms.continuous.cnf_trajectory", counted)
    x, found = normal(6, 3), []
    for net in (inner, hidden(inner)):
        found.append(Continuous(net, method=method, stepping=Fixed(3))(x))
    assert len(calls) == 1
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-12)


def test_sampling_draws_no_probes_and_is_the_inverse() -> None:
    flow, generator = Continuous(field(), divergence="hutchinson", stepping=Fixed(4), method="rk4"), seeded(3)
    before = generator.get_state()
    x = flow.to_data(normal(5, 2), None, generator)
    assert torch.equal(generator.get_state(), before)
    torch.testing.assert_close(flow.inverse(normal(5, 2), None, generator)[0], x)
    assert not torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_every_adjoint_and_mode_has_the_same_gradient(divergence: str) -> None:
    """In the field's parameters, the state and a context that is itself differentiated."""
    net, x, context = field(3, context_dim=2, depth=3), normal(4, 3).requires_grad_(), normal(4, 2, seed=2)
    found = []
    for adjoint, mode in ((Backprop(), "forward"), (Recompute(), "forward"), (Recompute(), "reverse"),
                          (Backsolve(), "forward"), (Backsolve(), "reverse")):  # fmt: skip
        context = context.detach().requires_grad_()
        flow = Continuous(net, divergence=divergence, adjoint=adjoint, mode=mode, stepping=Adaptive(1e-7, 1e-7))
        z, ladj = flow(x, context, seeded())
        loss = z.square().sum() - ladj.sin().sum()
        found.append(torch.autograd.grad(loss, [x, context, *net.parameters()]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_estimate() -> None:
    flow, x = Continuous(field(5, depth=3), divergence="hutchinson", stepping=Fixed(4), method="rk4"), normal(4, 5)
    estimates = [flow(x, None, seeded(s))[1] for s in (0, 0, 1)]
    assert torch.equal(estimates[0], estimates[1]) and not torch.equal(estimates[0], estimates[2])
    exact = Continuous(field(5, depth=3), stepping=Fixed(4), method="rk4")(x)[1]
    mean = torch.stack([flow(x, None, seeded(s))[1] for s in range(400)])
    assert ((mean.mean(0) - exact).abs() < 4 * mean.std(0) / 20).all()


def test_rnode_of_a_linear_field() -> None:
    flow = Flow(DiagonalGaussian((3,)).double(), Continuous(linear, method="rk4", stepping=Fixed(40)))
    x, zero = normal(4, 3), {"kinetic": 0.0, "jacobian": 0.0}
    base = rnode(flow, x, **zero)
    torch.testing.assert_close(base, -flow.log_prob(x) / 3)
    frobenius = rnode(flow, x, kinetic=0.0, jacobian=1.0) - base
    torch.testing.assert_close(frobenius, A.square().sum().expand(4))
    fine = torch.linspace(0, 1, 2001, dtype=torch.float64)
    speeds = torch.stack([(x @ torch.linalg.matrix_exp(-A * t).t() @ A.t()).square().sum(1) for t in fine])
    torch.testing.assert_close(rnode(flow, x, kinetic=1.0, jacobian=0.0) - base, torch.trapezoid(speeds, fine, dim=0))
    with pytest.raises(ValueError, match="a Continuous transform"):
        rnode(Flow(DiagonalGaussian((3,)), Compose()), x)


def test_a_nan_row_of_an_adaptive_solve_stays_nan_alone() -> None:
    flow, x = Continuous(field(), stepping=Adaptive(1e-3, 1e-3)), normal(3, 2)
    clean = flow(x)
    x[1, 0] = math.nan
    for whole, right in zip((*flow(x), flow.to_data(x)), (*clean, flow.to_data(normal(3, 2))), strict=True):
        assert whole[1].isnan().all() and torch.equal(whole[[0, 2]], right[[0, 2]])


def test_steer_moves_the_end_in_training_only() -> None:
    flow, x = Continuous(field(), method="rk4", stepping=Fixed(4), steer=0.5), normal(4, 2)
    one, two = (flow.train()(x, None, seeded(s))[0] for s in (0, 1))
    assert not torch.allclose(one, two)
    assert torch.equal(flow.eval()(x, None, seeded(0))[0], flow(x, None, seeded(1))[0])


def test_no_graph_grows_without_gradients() -> None:
    for net in (field(), hidden(field())):
        with torch.no_grad():
            z, ladj = Continuous(net, method="rk4", stepping=Fixed(2))(normal(3, 2))
        assert not z.requires_grad and not ladj.requires_grad


@pytest.mark.parametrize("options, words", [
    ({"divergence": "trace"}, "divergence: expected one of exact, hutchinson"), ({"method": "rk5"}, "method: expected"),
    ({"probes": 0}, "probes: expected"), ({"divergence": "hutch++"}, "an even number"),
    ({"noise": "cauchy"}, "noise: expected"), ({"adjoint": Backsolve()}, "a field that is a module"),
    ({"mode": "sideways"}, "mode: expected"), ({"steer": 1.0}, "steer: expected"),
    ({"method": "rk4"}, r"stepping: expected Fixed\(steps\) for rk4"), ({"method": "adams4"}, "stepping: expected"),
    ({"method": "rk4", "stepping": Adaptive()}, "stepping: expected Fixed"),
])  # fmt: skip
def test_bad_options_are_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Continuous(linear, **options)


@pytest.mark.parametrize("options, words", [
    ({"steps": 8}, r"Continuous: expected stepping=Fixed\(steps=...\); got steps"),
    ({"rtol": 1e-3, "atol": 1e-3}, r"stepping=Adaptive\(atol=...\); got rtol, atol"),
    ({"options": {}}, "got options"),
    ({"adjoint": "backsolve"}, r"adjoint: expected Recompute\(\), .*got 'backsolve'"),
])  # fmt: skip
def test_what_was_written_before_is_named_as_it_is_written_now(options: dict, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Continuous(linear, **options)


def test_numbers_of_another_kind_are_named() -> None:
    with pytest.raises(TypeError, match="probes: expected an integer; got a float"):
        Continuous(linear, divergence="hutchinson", probes=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="steer: expected a number; got a str"):
        Continuous(linear, steer="a")  # type: ignore[arg-type]


def test_rows_of_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Continuous expects \(B, \*event\); got \(3,\)"):
        Continuous(linear)(torch.zeros(3))
