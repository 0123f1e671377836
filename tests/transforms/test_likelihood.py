"""Likelihoods of a velocity whose densities are known: values both ways, their gradients, one set of probes a solve."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.nets import Field, MLPField
from pyflowk.paths import CondOT
from pyflowk.solvers import Adaptive, Backprop, Backsolve, Fixed, Recompute
from pyflowk.transforms import Continuous
from tests.paths.oracles import PAIR

ROOT = torch.tensor([[0.8, 0.0, 0.0, 0.0], [0.5, 0.6, 0.0, 0.0], [-0.3, 0.2, 0.9, 0.0], [0.1, -0.4, 0.3, 0.7]]).double()
MEAN = torch.tensor([0.5, -1.0, 0.3, 0.2]).double()
STEPS = {"method": "rk4", "stepping": Fixed(16)}


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


class Gaussian(Field):
    """The velocity of N(m, S) on straight lines: m + (t S - (1 - t) I) C_t^-1 (x - t m)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        d = math.prod(shape)
        self.mean = torch.nn.Parameter(MEAN[:d].clone())
        self.root = torch.nn.Parameter(ROOT[:d, :d].clone())
        self.seen: list[Tensor] = []

    @property
    def covariance(self) -> Tensor:
        return self.root @ self.root.T

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        t = t.reshape(-1, 1, 1)
        eye = torch.eye(len(self.mean), dtype=x.dtype)
        both = t**2 * self.covariance + (1 - t) ** 2 * eye
        d = (x.flatten(1) - t[:, :, 0] * self.mean).unsqueeze(2)
        moved = (t * self.covariance - (1 - t) * eye) @ torch.linalg.inv(both) @ d  # of solve torch loses a gradient
        return (self.mean + moved.squeeze(2)).reshape(x.shape)

    def with_tangents(
        self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self.seen.append(tangents)
        return super().with_tangents(t, x, tangents, context)

    def known(self, x: Tensor) -> Tensor:
        return torch.distributions.MultivariateNormal(self.mean, self.covariance).log_prob(x.flatten(1))


def flow_of(field: Any, shape: tuple[int, ...], **options: Any) -> Flow:
    return Flow(DiagonalGaussian(shape).double(), Continuous(field, **{**STEPS, **options}))


SHAPES = pytest.mark.parametrize("shape", [(1,), (4,), (1, 2, 2)], ids=str)


@SHAPES
@torch.no_grad()
def test_densities_of_any_shape_both_ways(shape: tuple[int, ...]) -> None:
    field = Gaussian(shape)
    flow = flow_of(field, shape)
    x, log_prob = flow.sample_and_log_prob((3, 2), None, seeded())
    rows = x.reshape(6, *shape)
    torch.testing.assert_close(log_prob, field.known(rows).reshape(3, 2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(flow.log_prob(rows), log_prob.flatten(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows, flow.sample(6, None, seeded()))
    assert [len(part) for part in flow.sample_and_log_prob(0)] == [0, 0]


@torch.no_grad()
def test_the_density_of_a_mixture() -> None:
    """Its own quantile map is far from a line."""

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return PAIR.predictions(x[:, 0], t.expand(len(x)), CondOT())["velocity"].unsqueeze(1)

    flow = flow_of(velocity, (1,), method="dopri5", stepping=Adaptive(1e-7, 1e-7))
    x, log_prob = flow.sample_and_log_prob(10, None, seeded())
    known = PAIR.density(x[:, 0], torch.ones(10).double(), CondOT()).log()
    torch.testing.assert_close(log_prob, known, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(flow.log_prob(x), known, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("divergence, probes", [("hutchinson", 1), ("hutchinson", 3), ("hutch++", 4)])
@torch.no_grad()
def test_estimates_are_right_on_average(divergence: str, probes: int) -> None:
    """Densities of one event, and of samples, by probes of their own: their mean is the closed form."""
    n, field = 2000, Gaussian((4,))
    flow = flow_of(field, (4,), divergence=divergence, probes=probes, stepping=Fixed(12))
    x, drawn = flow.sample_and_log_prob(n, None, seeded())
    for error in (drawn - field.known(x), flow.log_prob(x[:1].expand(n, 4), None, seeded()) - field.known(x[:1])):
        assert error.std() > 0.05 or divergence == "hutch++"
        assert error.mean().abs() < 4 * error.std() / n**0.5 + 1e-4


@pytest.mark.parametrize(
    "options", [STEPS, {"method": "dopri5", "stepping": Adaptive(1e-7, 1e-7)}], ids=["equal", "own"]
)
def test_probes_are_drawn_once_a_solve(options: dict[str, Any]) -> None:
    field = Gaussian((4,))
    flow = flow_of(field, (4,), divergence="hutchinson", **options)
    x = torch.randn(5, 4, generator=seeded(1)).double()
    first = flow.log_prob(x, None, seeded())
    assert len(field.seen) > 20 and all(torch.equal(e, field.seen[0]) for e in field.seen)
    field.seen.clear()
    flow.sample_and_log_prob(5, None, seeded())
    assert all(torch.equal(e, field.seen[0]) for e in field.seen)
    assert torch.equal(flow.log_prob(x, None, seeded()), first)
    assert not torch.equal(flow.log_prob(x, None, seeded(1)), first)


WAYS: dict[str, dict[str, Any]] = {
    "recompute": {"adjoint": Recompute()}, "backprop": {"adjoint": Backprop()},
    "own-steps": {"method": "dopri5", "stepping": Adaptive(1e-6, 1e-6)},
    "backsolve": {"method": "dopri5", "stepping": Adaptive(1e-6, 1e-6), "adjoint": Backsolve()},
    "reverse": {"mode": "reverse"},
}  # fmt: skip


@SHAPES
@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_by_the_event_is_the_score(shape: tuple[int, ...], way: str) -> None:
    field = Gaussian(shape)
    flow = flow_of(field, shape, **WAYS[way])
    x = torch.randn(3, *shape, generator=seeded(1)).double().requires_grad_()
    (found,) = torch.autograd.grad(flow.log_prob(x).sum(), x)
    (score,) = torch.autograd.grad(field.known(x).sum(), x)
    torch.testing.assert_close(found, score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["recompute", "own-steps", "backsolve"])
def test_the_gradient_by_the_parameters_is_that_of_the_closed_form(way: str) -> None:
    field, x = Gaussian((4,)), torch.randn(6, 4, generator=seeded(1)).double()
    flow = flow_of(field, (4,), **WAYS[way])
    found, known = (
        torch.autograd.grad(value.mean(), list(field.parameters())) for value in (flow.log_prob(x), field.known(x))
    )
    torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_an_estimate_is_the_score_on_average() -> None:
    n, field = 1500, Gaussian((4,))
    flow = flow_of(field, (4,), divergence="hutchinson", stepping=Fixed(12))
    x = torch.randn(1, 4, generator=seeded(1)).double()
    rows = x.expand(n, 4).clone().requires_grad_()
    (found,) = torch.autograd.grad(flow.log_prob(rows, None, seeded()).sum(), rows)
    score = -torch.linalg.solve(field.covariance, (x - field.mean).T).T[0].detach()
    assert ((found.mean(0) - score).abs() < 4 * found.std(0) / n**0.5 + 1e-4).all()


@pytest.mark.parametrize("fused", [True, False], ids=["kernel", "solver"])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_gradients_of_a_network_against_differences(divergence: str, fused: bool) -> None:
    """Of densities, and of samples with theirs, along one direction of all weights; the probes stay where they are."""
    torch.manual_seed(0)
    net = MLPField(3, 8, 2, context_dim=2).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.5)
    field = net if fused else lambda t, x, context: net(t, x, context)
    flow = Flow(
        DiagonalGaussian((3,)).double(), Continuous(field, divergence=divergence, method="rk4", stepping=Fixed(4))
    )
    x, c = (torch.randn(4, d, generator=seeded(d)).double() for d in (3, 2))
    directions = [torch.randn(p.shape, generator=seeded(i)).double() for i, p in enumerate(net.parameters())]

    def density() -> Tensor:
        return flow.log_prob(x, c, seeded()).sum()

    def samples() -> Tensor:
        y, log_prob = flow.sample_and_log_prob(4, c, seeded())
        return (log_prob * y.sin().sum(1)).sum()

    for value in (density, samples):
        slopes = torch.autograd.grad(value(), list(net.parameters()))
        found = sum((g * d).sum() for g, d in zip(slopes, directions))
        ends = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                for p, d in zip(net.parameters(), directions):
                    p += step * d
                ends.append(value())
        with torch.no_grad():
            for p, d in zip(net.parameters(), directions):
                p += 1e-5 * d
        torch.testing.assert_close(found, (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-6)
