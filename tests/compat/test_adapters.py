"""Other packages' calls over this one: the same numbers where theirs are defined, and what is known of the answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_score
from torch.distributions import Independent, MultivariateNormal, Uniform, kl_divergence, register_kl

from pyflowk import distributions, flows, transforms, zoo
from pyflowk.compat import Density, as_distribution, flow_matching, torchcfm
from pyflowk.compat.sbi import NPE
from pyflowk.compat.sklearn import FlowDensity
from pyflowk.datasets import load

MATCHERS = (
    "ConditionalFlowMatcher",
    "ExactOptimalTransportConditionalFlowMatcher",
    "TargetConditionalFlowMatcher",
    "VariancePreservingConditionalFlowMatcher",
    "SchrodingerBridgeConditionalFlowMatcher",
)


def test_an_estimator_of_densities() -> None:
    """Correlated columns of very different units: the density is that of a Gaussian, in their units."""
    generator = np.random.default_rng(0)
    truth = np.array([[1.0, 0.0], [60.0, 80.0]])
    X = generator.normal(size=(1500, 2)) @ truth.T + [5.0, -300.0]
    flow = FlowDensity("realnvp", steps=100, lr=1e-2, options={"couplings": 2, "width": 16, "depth": 1})
    with pytest.raises(NotFittedError):
        flow.score_samples(X)
    fitted = clone(flow).fit(X)
    best = GaussianMixture(1, random_state=0).fit(X).score(X)
    assert best - 0.25 < fitted.score(X) < best + 0.1
    drawn = fitted.sample(4000, random_state=0)
    assert np.allclose(drawn.mean(0) / X.std(0), X.mean(0) / X.std(0), atol=0.2)
    assert np.array_equal(drawn, fitted.sample(4000, random_state=0))
    for make in (np.random.RandomState, np.random.default_rng, np.int64):
        assert np.array_equal(fitted.sample(2, random_state=make(3)), fitted.sample(2, random_state=make(3)))
    assert np.array_equal(fitted.sample(2, random_state=np.int64(3)), fitted.sample(2, random_state=3))
    moving = np.random.RandomState(3)
    assert not np.array_equal(fitted.sample(2, random_state=moving), fitted.sample(2, random_state=moving))
    few = clone(flow).set_params(steps=np.int64(1), batch_size=np.int64(32), random_state=np.random.RandomState(0))
    assert np.isfinite(cross_val_score(few, X[:60], cv=2)).all()
    with pytest.raises(ValueError, match="expected columns that vary"):
        few.fit(np.zeros((30, 2)))
    with pytest.raises(ValueError, match="NaN"):
        few.fit(np.full((30, 2), np.nan))
    with pytest.raises(NotImplementedError, match="likelihood"):
        clone(few).set_params(system="consistency", options={}).fit(X)
    y, given = X[:60, 0], clone(few).fit(X[:60, 1:], X[:60, 0])
    assert given.score_samples(X[:60, 1:], y).shape == (60,) and given.sample(3, y[:1]).shape == (3, 1)
    for refused, message in (
        (lambda: fitted.sample(2, random_state=-1), "Seed must be between"),
        (lambda: few.set_params(random_state="x").fit(X), "cannot be used to seed"),
        (lambda: given.score_samples(X[:60, 1:]), "fitted with conditions: pass y"),
        (lambda: given.sample(2), "fitted with conditions: pass y"),
        (lambda: fitted.score(X[:60], y), "fitted without conditions"),
        (lambda: fitted.sample(60, y), "fitted without conditions"),
        (lambda: given.sample(2, np.zeros((1, 3))), r"y: expected conditions .N, 1., as in fit, got shape .1, 3."),
        (lambda: given.sample(3, y[:2]), "y: expected 1 condition or 3, one a sample, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            refused()


def test_a_posterior_by_sbi_s_calls() -> None:
    """Gaussian noise on a uniform prior: mean and density are known, and nothing lies outside of the prior."""
    prior = Independent(Uniform(torch.tensor([-1.0, -20.0]), torch.tensor([1.0, 20.0])), 1)
    torch.manual_seed(0)
    theta = prior.sample((3000,))
    x = theta + torch.tensor([0.1, 2.0]) * torch.randn(3000, 2)
    inference = NPE(prior, "realnvp", options={"couplings": 4, "width": 32, "depth": 1})
    with pytest.raises(ValueError, match="expected simulations"):
        inference.train()
    inference.append_simulations(theta[:1000], x[:1000]).append_simulations(theta[1000:], x[1000:])
    inference.train(max_num_epochs=12, learning_rate=1e-2)
    posterior = inference.build_posterior()
    with pytest.raises(ValueError, match="expected an observation"):
        posterior.sample((3,))
    observed = torch.tensor([0.3, -4.0])
    drawn = posterior.set_default_x(observed).sample((2000,), seed=1)
    scale = torch.tensor([0.1, 2.0])
    assert ((drawn.mean(0) - observed) / scale).abs().max() < 0.35
    assert ((drawn.std(0) / scale).log().abs() < 0.4).all()
    exact = MultivariateNormal(observed, torch.diag(scale**2)).log_prob(drawn)
    assert (posterior.log_prob(drawn) - exact).mean().abs() < 0.3
    edge = torch.tensor([[1.0, 0.0]])  # some of what the flow draws there lies outside
    inside = posterior.sample((500,), x=edge, seed=2)
    assert prior.support.check(inside).all()
    cut = posterior.log_prob(inside, x=edge) - posterior.log_prob(inside, x=edge, norm_posterior=False)
    share = prior.support.check(posterior.density.sample(5000, edge).float()).double().mean()
    assert 0.4 < share < 0.97 and abs(cut + share.log()).max() < 0.03
    assert posterior.log_prob(torch.tensor([[5.0, 0.0]])).item() == -math.inf
    assert posterior.sample_batched((4,), x=x[:3], seed=np.int64(0)).shape == (4, 3, 2)


def test_a_torch_distribution_of_every_density() -> None:
    flow = flows.Flow(distributions.DiagonalGaussian((2,)), transforms.Scale(2.0))
    given = zoo.create("nsf", (2,), context_dim=1, couplings=2, width=8).eval()
    context = torch.randn(3, 1)
    for density, batch in ((flow, ()), (distributions.DiagonalGaussian((2,)), ()), (given, (3,))):
        view = as_distribution(density, context if batch else None)
        x = view.sample((4,))
        assert view.batch_shape == batch and x.shape == (4, *batch, 2) and not x.requires_grad
        assert view.log_prob(x).shape == (4, *batch)
        assert view.support.check(x).all() and view.has_rsample
    rows = view.log_prob(x)[2]
    torch.testing.assert_close(rows, given.log_prob(x[2], context))
    one = as_distribution(given, context[:1]).expand((3,))
    torch.testing.assert_close(one.log_prob(x[0]), given.log_prob(x[0], context[:1]))
    torch.testing.assert_close(view.expand((4, 3)).log_prob(x), view.log_prob(x))
    assert as_distribution(flow).expand((2, 3)).sample((4,)).shape == (4, 2, 3, 2)
    many = torch.randn(2, 2, 1)  # any shape of contexts is the batch
    grid = as_distribution(given, many)
    x = grid.sample((5,))
    assert x.shape == (5, 2, 2, 2) and as_distribution(given, many[0, 0]).sample().shape == (2,)
    torch.testing.assert_close(grid.log_prob(x)[:, 1, 0], given.log_prob(x[:, 1, 0], many[1, 0][None]))
    labelled = as_distribution(distributions.ClassConditionalGaussian((2,), 3), torch.tensor([0, 2]))
    assert labelled.expand((3, 2)).sample().shape == (3, 2, 2)
    view.rsample((2,)).sum().backward()
    assert any(p.grad is not None for p in given.parameters())

    @register_kl(Density, Density)
    def _(p: Density, q: Density) -> torch.Tensor:
        drawn = p.sample((500,))
        return (p.log_prob(drawn) - q.log_prob(drawn)).mean(0)

    assert kl_divergence(as_distribution(flow), as_distribution(distributions.DiagonalGaussian((2,)))) > 0
    with pytest.raises(TypeError, match="expected a model of the zoo"):
        as_distribution(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="likelihood"):
        as_distribution(zoo.create("consistency", (2,)).eval())
    for density, wrong, message in (
        (given, None, "expected numbers .B, 1., got no context"),
        (given, torch.zeros(2, 3), r"expected floats .\*batch, 1., got .2, 3."),
        (given, 7, "context: expected a tensor"),
        (distributions.ClassConditionalGaussian((2,), 3), None, "cannot be sampled with no context: .* got none"),
        (distributions.ClassConditionalGaussian((2,), 3), torch.zeros(3, 1).long(), r"a context .3, 1., whose first"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            as_distribution(density, wrong)
    with pytest.raises(ValueError, match=r"that .2, 2. broadcasts to, got .2,."):
        grid.expand((2,))
    with pytest.raises(ValueError, match=r"value: expected .\.\.\., 2, 2, 2., got .3, 1."):
        grid.log_prob(torch.zeros(3, 1))
    for ask in (lambda: grid.mean, lambda: grid.stddev, lambda: grid.mode, grid.entropy):
        with pytest.raises(NotImplementedError, match=r"a flow has no formula for it; .* estimates it"):
            ask()


@pytest.mark.parametrize("name", MATCHERS)
def test_matchers_of_torchcfm(name: str) -> None:
    """Theirs, where it is installed, is the same at inner times; elsewhere x_t and u_t obey what defines them."""
    torch.manual_seed(0)
    ours, x1 = getattr(torchcfm, name)(0.5), load("moons").train[:64]
    x0, t = torch.randn(64, 2), torch.rand(64).clamp(0.05, 0.95)
    at, xt, ut, noise = ours.sample_location_and_conditional_flow(x0, x1, t, return_noise=True)
    assert torch.equal(at, t) and xt.isfinite().all() and ut.isfinite().all()
    if "Exact" in name or "Bridge" in name:
        x0, x1 = ours.pairing(x0, x1, None)[:2]
    torch.testing.assert_close(xt, ours.sample_xt(x0, x1, t, noise))
    torch.testing.assert_close(ut, ours.compute_conditional_flow(x0, x1, t, xt), rtol=1e-4, atol=1e-4)
    h = 1e-3  # the same noise a little later lies where the velocity leads
    ahead, behind = (ours.sample_xt(x0.double(), x1.double(), (t + s * h).double(), noise.double()) for s in (1, -1))
    torch.testing.assert_close(ut.double(), (ahead - behind) / (2 * h), rtol=1e-2, atol=1e-2)
    labels = torch.arange(64) % 2
    found = ours.guided_sample_location_and_conditional_flow(x0, x1, y1=labels, t=t)
    assert len(found) == 5 and sorted(found[4].tolist()) == sorted(labels.tolist())
    with pytest.raises(ValueError, match="one time a pair"):
        ours.sample_location_and_conditional_flow(x0, x1, t[:3])
    theirs = getattr(pytest.importorskip("torchcfm.conditional_flow_matching"), name)(0.5)
    torch.testing.assert_close(theirs.compute_mu_t(x0, x1, t), ours.compute_mu_t(x0, x1, t))
    torch.testing.assert_close(
        theirs.compute_conditional_flow(x0, x1, t, xt),
        ours.compute_conditional_flow(x0, x1, t, xt),
        rtol=1e-4,
        atol=1e-4,
    )
    torch.testing.assert_close(torch.as_tensor(theirs.compute_lambda(t)), torch.as_tensor(ours.compute_lambda(t)))


def test_plans_of_torchcfm() -> None:
    x0, x1 = torch.randn(128, 2), torch.randn(128, 2) + 1
    dear = (x0 - x1).square().sum(1).mean()
    for method in ("exact", "sinkhorn", "unbalanced", "partial"):
        a, b = torchcfm.OTPlanSampler(method, reg=0.5).sample_plan(x0, x1)
        assert a.shape == b.shape == (128, 2) and (a - b).square().sum(1).mean() < 0.8 * dear
    a, b = torchcfm.OTPlanSampler().sample_plan(x0, x1, replace=False)
    assert torch.equal(a.sort(0).values, x0.sort(0).values)
    assert abs(torchcfm.wasserstein(x0, x1) ** 2 - (a - b).square().sum(1).mean()) < 1e-4


SCHEDULERS = (("CondOT", ()), ("PolynomialConvex", (2,)), ("VP", ()), ("LinearVP", ()), ("Cosine", ()))


def test_paths_and_solvers_of_flow_matching() -> None:
    """Conversions undo each other, the way of one Gaussian is known, and theirs, where it is installed, is the same."""
    torch.manual_seed(0)
    x0, x1, t = torch.randn(32, 2), torch.randn(32, 2) + 3, torch.rand(32).clamp(0.05, 0.95)

    def model(x: torch.Tensor, t: torch.Tensor, shift: float) -> torch.Tensor:  # N(0, 1) to N(shift, 1 / 4)
        t = t.reshape(-1, 1)
        rate = (5 * t / 4 - 1) / ((1 - t) ** 2 + t**2 / 4)
        return shift + rate * (x - shift * t)

    solver = flow_matching.ODESolver(model)
    base = MultivariateNormal(torch.zeros(2), torch.eye(2))
    end, nats = solver.compute_likelihood(x1, base.log_prob, 0.02, "rk4", exact_divergence=True, shift=3.0)
    truth = MultivariateNormal(torch.full((2,), 3.0), 0.25 * torch.eye(2))
    torch.testing.assert_close(nats, truth.log_prob(x1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(end, (x1 - 3) * 2, rtol=1e-3, atol=1e-3)
    for step, method in ((0.02, "midpoint"), (None, "dopri5")):
        back = solver.sample(end, step, method, shift=3.0)
        torch.testing.assert_close(back, x1, rtol=1e-2, atol=1e-2)
    grid = torch.tensor([0.0, 0.5, 1.0])
    assert solver.sample(x0, 0.1, time_grid=grid, return_intermediates=True, shift=3.0).shape == (3, 32, 2)
    for name, options in SCHEDULERS:
        scheduler = getattr(flow_matching, f"{name}Scheduler")(*options)
        path, out = flow_matching.AffineProbPath(scheduler), scheduler(t)
        sample = path.sample(x_0=x0, x_1=x1, t=t)
        torch.testing.assert_close(sample.x_t, out.alpha_t[:, None] * x1 + out.sigma_t[:, None] * x0)
        torch.testing.assert_close(scheduler.snr_inverse(out.alpha_t / out.sigma_t), t, rtol=1e-3, atol=1e-3)
        noise = path.velocity_to_epsilon(sample.dx_t, sample.x_t, t)
        for found, wanted in (
            (noise, x0),
            (path.epsilon_to_target(noise, sample.x_t, t), x1),
            (path.target_to_velocity(x1, sample.x_t, t), sample.dx_t),
        ):
            torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-3)
    with pytest.raises(TypeError, match="scheduler: expected"):
        flow_matching.AffineProbPath(torch.nn.Identity())  # type: ignore[arg-type]
    theirs = pytest.importorskip("flow_matching.path")
    for name, options in SCHEDULERS:
        ours = getattr(flow_matching, f"{name}Scheduler")(*options)
        other = getattr(pytest.importorskip("flow_matching.path.scheduler"), f"{name}Scheduler")(*options)
        here, there = (
            flow_matching.AffineProbPath(ours).sample(x0, x1, t),
            theirs.AffineProbPath(other).sample(x0, x1, t),
        )
        torch.testing.assert_close(here.x_t, there.x_t)
        torch.testing.assert_close(here.dx_t, there.dx_t, rtol=1e-4, atol=1e-4)
    solved = pytest.importorskip("flow_matching.solver").ODESolver(model).sample(x0, 0.05, method="midpoint", shift=3.0)
    torch.testing.assert_close(solver.sample(x0, 0.05, method="midpoint", shift=3.0), solved)
