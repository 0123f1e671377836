"""Divergences against closed forms of Gaussians; gradients against differences; weights against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pyflowk.distributions import DiagonalGaussian, GaussianMixture
from pyflowk.flows import Flow
from pyflowk.nets import MADE
from pyflowk.objectives import (
    effective_sample_size,
    forward_kl,
    importance_sample,
    log_evidence,
    nll,
    reverse_kl,
)
from pyflowk.transforms import Compose, Dequantize, Invert, MaskedAutoregressive, Permute

MEAN, STD = torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([0.7, 1.3], dtype=torch.float64)
LOG_Z = float(STD.log().sum()) + math.log(2 * math.pi)  # of the density below


def log_density(x: Tensor) -> Tensor:
    return -0.5 * ((x - MEAN) / STD).square().sum(1)


def gaussian(mean: Tensor, std: Tensor) -> Flow:
    flow = Flow(DiagonalGaussian((2,), learned=True), Compose()).double()
    with torch.no_grad():
        flow.base.mean.copy_(mean)
        flow.base.log_std.copy_(std.log())
    return flow


def autoregressive(inverse: bool, features: int = 3, context: int | None = None) -> Flow:
    torch.manual_seed(0)
    layers = []
    for _ in range(2):
        made = MADE(features, hidden=(12,), activation="tanh", context_dim=context)
        for p in made.parameters():
            nn.init.normal_(p, std=0.4)
        layer = MaskedAutoregressive(made)
        layers += [Invert(layer) if inverse else layer, Permute(torch.arange(features).flip(0))]
    return Flow(DiagonalGaussian((features,), learned=True), Compose(*layers)).double()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("stick_the_landing", [False, True])
def test_reverse_kl_of_gaussians(stick_the_landing: bool) -> None:
    """Value and gradient of KL(N(m, s) | N(MEAN, STD)) - log Z, within five standard errors."""
    flow = gaussian(torch.tensor([0.0, 0.3]), torch.tensor([1.0, 0.8]))
    m, log_s = flow.base.mean, flow.base.log_std
    s = log_s.exp()
    kl = (STD.log() - log_s + (s.square() + (m - MEAN).square()) / (2 * STD.square()) - 0.5).sum()
    expected = torch.autograd.grad(kl, [m, log_s])
    losses, found = [], []
    for seed in range(40):
        loss = reverse_kl(flow, log_density, 500, stick_the_landing=stick_the_landing, generator=seeded(seed))
        assert loss.shape == (500,)
        losses.append(loss.detach())
        found.append(torch.cat(torch.autograd.grad(loss.mean(), [m, log_s])))
    all = torch.cat(losses)
    assert abs(all.mean() - (kl - LOG_Z)) < 5 * all.std() / len(all) ** 0.5
    gradients = torch.stack(found)
    error = gradients.std(0) / len(found) ** 0.5
    assert error.max() < 0.02
    assert ((gradients.mean(0) - torch.cat(expected)).abs() < 5 * error).all()


def test_where_the_fit_is_perfect_nothing_is_left_to_chance() -> None:
    """Every loss is - log Z; with the landing stuck, the gradient is zero sample by sample."""
    flow = gaussian(MEAN, STD)
    for stick in (False, True):
        loss = reverse_kl(flow, log_density, 50, stick_the_landing=stick)
        torch.testing.assert_close(loss, torch.full_like(loss, -LOG_Z))
        gradients = torch.autograd.grad(loss.mean(), list(flow.parameters()))
        noise = max(g.abs().max().item() for g in gradients)
        assert noise < 1e-12 if stick else noise > 1e-3
    x, log_weights = importance_sample(flow, log_density, 50)
    assert not log_weights.requires_grad and not x.requires_grad
    torch.testing.assert_close(log_evidence(log_weights).item(), LOG_Z)
    torch.testing.assert_close(effective_sample_size(log_weights).item(), 50.0)


@pytest.mark.parametrize("inverse", [False, True], ids=["maf", "iaf"])
@pytest.mark.parametrize("stick_the_landing", [False, True])
def test_gradients_of_either_direction_are_those_of_differences(inverse: bool, stick_the_landing: bool) -> None:
    """In the mean over the same noise; sticking the landing drops exactly the score of q."""
    flow = autoregressive(inverse)

    def target(x: Tensor) -> Tensor:
        return -0.25 * (x[:, 0].square() + x[:, 1:].square().sum(1) - 1).square()

    def loss(stick: bool) -> Tensor:
        return reverse_kl(flow, target, 7, stick_the_landing=stick, generator=seeded(), reduction="sum")

    parameters = list(flow.parameters())
    directions = [torch.randn(p.shape, generator=seeded(1), dtype=p.dtype) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(torch.autograd.grad(loss(stick_the_landing), parameters), directions))
    values, step = [], 1e-5
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, directions):
                p.add_(sign * step * d)
            values.append(loss(False))
    with torch.no_grad():
        for p, d in zip(parameters, directions):
            p.add_(step * d)
    expected = (values[0] - values[1]) / (2 * step)
    if stick_the_landing:
        x = flow.sample(7, generator=seeded()).detach()
        score = torch.autograd.grad(flow.log_prob(x).sum(), parameters)
        expected = expected - sum((g * d).sum() for g, d in zip(score, directions))
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-6)


def test_forward_kl_is_likelihood_on_weighted_samples() -> None:
    flow, exact = gaussian(torch.zeros(2), torch.ones(2)), gaussian(MEAN, STD)
    loss = forward_kl(flow, log_density, 200, proposal=exact, generator=seeded())
    torch.testing.assert_close(loss, nll(flow, exact.sample(200, generator=seeded()).detach()))  # weights are equal
    # on its own samples: the gradient in the mean is (m - E x) / s^2, which is - MEAN here
    loss = forward_kl(flow, log_density, 200_000, generator=seeded(), reduction="mean")
    (gradient,) = torch.autograd.grad(loss, [flow.base.mean])
    torch.testing.assert_close(gradient, -MEAN, rtol=0.03, atol=0.03)


def test_effective_sample_size() -> None:
    """exp(-d^2) of the samples for a Gaussian that is shifted by d; bounds, scale, several sets, no weight at all."""
    d = 0.8
    x = torch.randn(400_000, generator=seeded(), dtype=torch.float64)
    log_weights = d * x - d * d / 2
    assert abs(effective_sample_size(log_weights) / len(x) - math.exp(-d * d)) < 0.01
    assert abs(log_evidence(log_weights)) < 0.01
    torch.testing.assert_close(effective_sample_size(log_weights + 5000), effective_sample_size(log_weights))
    sets = torch.stack([torch.zeros(4), torch.tensor([0.0, *[-math.inf] * 3]), torch.full((4,), -math.inf)], 1)
    assert effective_sample_size(sets).tolist() == [4, 1, 0]
    assert log_evidence(sets).tolist() == pytest.approx([0, -math.log(4), -math.inf])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shift", [-1e7, 0.0, 3e38])
def test_a_shift_of_all_log_weights_changes_nothing(shift: float, dtype: torch.dtype) -> None:
    equal = torch.full((1000,), shift, dtype=dtype)
    assert effective_sample_size(equal) == 1000 and effective_sample_size(equal[:1]) == 1
    assert log_evidence(equal) == equal[0] and log_evidence(equal[:1]) == equal[0]
    half = torch.where(torch.arange(1000) < 500, equal, -math.inf)
    assert effective_sample_size(half) == 500
    assert log_evidence(half).double() == pytest.approx(float(equal[0]) - math.log(2))


def test_weights_that_are_no_numbers() -> None:
    for odd, evidence in ((math.nan, math.nan), (math.inf, math.inf)):
        sets = torch.tensor([[0.0, 0.0], [odd, 1.0]])
        assert effective_sample_size(sets).isnan().tolist() == [True, False]
        torch.testing.assert_close(log_evidence(sets)[0], torch.tensor(evidence), equal_nan=True)
    draws = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_evidence, draws) and torch.autograd.gradcheck(effective_sample_size, draws)


def test_a_seed_is_a_result_and_a_context_is_handed_on() -> None:
    flow, context = autoregressive(True, context=2), torch.randn(5, 2, dtype=torch.float64)

    def target(x: Tensor, context: Tensor) -> Tensor:
        assert context.shape == (5, 2)
        return -(x[:, :2] - context).square().sum(1)

    for objective in (reverse_kl, forward_kl):
        first, again = (objective(flow, target, 5, context, generator=seeded(3)) for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, objective(flow, target, 5, context, generator=seeded(4)))
        assert objective(flow, target, 5, context, generator=seeded(3), reduction="sum") == first.sum()
    x, log_weights = importance_sample(flow, target, 5, context, generator=seeded(3))
    torch.testing.assert_close(-log_weights, reverse_kl(flow, target, 5, context, generator=seeded(3)).detach())
    assert x.shape == (5, 3)


def test_bad_input() -> None:
    flow = gaussian(MEAN, STD)
    for wrong in (lambda x: x, lambda x: x.sum(), lambda x: 1.0):
        with pytest.raises(ValueError, match=r"expected one number per sample, \(4,\); got"):
            reverse_kl(flow, wrong, 4)
    with pytest.raises(ValueError, match="differentiable functions"):
        reverse_kl(Flow(GaussianMixture((2,), 3), Compose()), log_density, 4)
    with pytest.raises(ValueError, match="differentiable functions"):
        reverse_kl(Flow(DiagonalGaussian((2,)), Dequantize(4)), log_density, 4)
    with pytest.raises(ValueError, match="none among 4"):
        forward_kl(flow, lambda x: torch.full_like(x[:, 0], -math.inf), 4)
    for estimate in (effective_sample_size, log_evidence):
        with pytest.raises(ValueError, match="n at least 1"):
            estimate(torch.zeros(0))
        with pytest.raises(TypeError, match="log-weights as a tensor, got list"):
            estimate([0.0])
    assert reverse_kl(flow, log_density, 0).shape == (0,)
