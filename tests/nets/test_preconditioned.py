"""Networks with inputs and outputs of unit scale: published coefficients, Gaussian data at the start, tangents."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.nets import Field, FunctionField, GaussianBaseline, MLPField, Preconditioned, VelocityField
from pyflowk.paths import EDM, VE, VP, CondOT, Cosine, Schedule, SubVP, convert
from pyflowk.solvers import Fixed, odeint
from pyflowk.transforms import Continuous
from tests.solvers.gaussian import best

D, S = torch.float64, 0.5
PATHS: list[Schedule] = [CondOT(), Cosine(), VP(), SubVP(), VE(), EDM()]
schedules = pytest.mark.parametrize("schedule", PATHS, ids=str)
TIMES = torch.linspace(0, 1, 7, dtype=D)
X = torch.linspace(-2, 3, 14, dtype=D).reshape(7, 2)


def nothing(t: Tensor, x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def test_published_coefficients() -> None:
    heard = []

    def net(t: Tensor, x: Tensor) -> Tensor:
        heard.append((t, x))
        return torch.ones_like(x)

    sigma = EDM().at(TIMES[:-1]).sigma
    found = Preconditioned(net, EDM(), S)(TIMES[:-1], X[:-1])
    ((clock, scaled),) = heard
    norm = (sigma**2 + S**2).sqrt().unsqueeze(1)
    torch.testing.assert_close(clock, sigma.clamp(min=1e-4).log() / 4)
    torch.testing.assert_close(scaled, X[:-1] / norm)
    torch.testing.assert_close(found, S**2 / norm**2 * X[:-1] + sigma.unsqueeze(1) * S / norm)
    assert torch.equal(Preconditioned(net, EDM(), S)(TIMES[-1], X), X)  # where there is no noise


@schedules
def test_inputs_and_targets_have_unit_variance(schedule: Schedule) -> None:
    """Of x = alpha x1 + sigma x0 and of what a network that gives 0 leaves of x1, x1 and x0 independent."""
    alpha, sigma, *_ = schedule.at(TIMES)
    data, noise, zero = (torch.full((7, 1), v, dtype=D) for v in (S, 1.0, 0.0))
    field = Preconditioned(nothing, schedule, S)
    _, _, norm, _, skip, out = field._numbers(TIMES, zero)
    parts = [
        (
            part - skip * (alpha.unsqueeze(1) * a + sigma.unsqueeze(1) * b),
            alpha.unsqueeze(1) * a,
            sigma.unsqueeze(1) * b,
        )
        for part, a, b in ((data, data, zero), (zero, zero, noise))
    ]
    torch.testing.assert_close(sum(((a + b) / norm) ** 2 for _, a, b in parts), torch.ones_like(norm))
    left = sum(c**2 for c, *_ in parts)
    torch.testing.assert_close(left, out**2, rtol=1e-9, atol=1e-12)


@schedules
def test_a_network_that_gives_nothing_is_the_answer_for_gaussian_data(schedule: Schedule) -> None:
    c = schedule.at(TIMES).beside(X)
    known = c.alpha * S**2 / ((c.alpha * S) ** 2 + c.sigma**2) * X
    torch.testing.assert_close(Preconditioned(nothing, schedule, S)(TIMES, X), known)
    field = GaussianBaseline(nothing, schedule, mean=1.0, deviation=S)
    torch.testing.assert_close(field(TIMES, X), best(schedule, "velocity")(TIMES.unsqueeze(1), X))


@schedules
def test_all_predictions_say_the_same_and_the_velocity_is_finite_at_both_ends(schedule: Schedule) -> None:
    names = ("data", "noise", "velocity")
    said = {name: Preconditioned(lambda t, x: x.sin(), schedule, S, name) for name in names}
    inside, x = TIMES[1:-1], X[1:-1]
    for source in said:
        for target in said:
            found = convert(said[source](inside, x), x, inside, schedule, source, target, least=0.0)
            torch.testing.assert_close(found, said[target](inside, x), rtol=1e-8, atol=1e-8)
    c = schedule.at(TIMES).beside(X)
    whole = c.alpha_rate * said["data"](TIMES, X) + c.sigma_rate * said["noise"](TIMES, X)
    torch.testing.assert_close(said["velocity"](TIMES, X), whole)
    assert whole.isfinite().all()
    assert all(field.predicts == name for name, field in said.items())
    assert GaussianBaseline(nothing).predicts == VelocityField(nothing, schedule, "data").predicts == "velocity"
    assert FunctionField(nothing).predicts is None
    with pytest.raises(ValueError, match="prediction: expected data, noise or velocity, got 'score'"):
        Preconditioned(nothing, schedule, S, "score")


def test_moments_are_fitted_before_anything_is_learned() -> None:
    mean, deviation = torch.tensor([100.0, -3.0]), torch.tensor([10.0, 0.2])
    field = GaussianBaseline(nothing, mean=mean, deviation=deviation).double()
    x = torch.randn(5000, 2, dtype=D, generator=torch.Generator().manual_seed(0))
    y = odeint(field, x, [0.0, 1.0], method="rk4", stepping=Fixed(50))[-1]
    torch.testing.assert_close((y - mean) / deviation, x, rtol=1e-3, atol=1e-3)
    assert {*field.state_dict()} == {"mean", "deviation"}
    # the unit of what a network adds, on straight lines
    ones = GaussianBaseline(lambda t, x: torch.ones_like(x), mean=mean, deviation=deviation)
    added = ones(torch.tensor(0.3), x[:1].float()) - field.float()(torch.tensor(0.3), x[:1].float())
    torch.testing.assert_close(added, (1 + deviation**2).sqrt().unsqueeze(0), rtol=1e-4, atol=1e-4)


MAKERS: dict[str, Callable[[Any], Field]] = {
    "edm": lambda net: Preconditioned(net, VP(), 0.7),
    "edm-velocity": lambda net: VelocityField(Preconditioned(net, EDM()), EDM(), "data"),
    "baseline": lambda net: GaussianBaseline(net, Cosine(), torch.tensor([1.0, 2.0]), 0.3),
    "baseline-straight": lambda net: GaussianBaseline(net, mean=torch.zeros(2)),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("times", [0.6, (0.3, 0.6, 0.9)])
def test_tangents_by_hand_are_those_of_the_formula(name: str, times: float | tuple[float, ...]) -> None:
    torch.manual_seed(0)
    net = MLPField(2, 8, 2, context_dim=1).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.4)
    field, t = MAKERS[name](net).double(), torch.tensor(times, dtype=D)
    x, c, e = torch.randn(3, 2, dtype=D), torch.randn(3, 1, dtype=D), torch.randn(3, 4, 2, dtype=D)
    plain = FunctionField(lambda t, x, c: field(t, x, c))
    torch.testing.assert_close(field.with_tangents(t, x, e, c), plain.with_tangents(t, x, e, c))
    rows = [field(t if t.dim() == 0 else t[i : i + 1], x[i : i + 1], c[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(field(t, x, c), torch.cat(rows))
    z, ladj = Continuous(field, method="rk4", stepping=Fixed(4))(x, c)
    assert z.isfinite().all() and ladj.isfinite().all()
    assert field(t if t.dim() == 0 else t[:0], x[:0], c[:0]).shape == (0, 2)
    assert torch.autograd.gradcheck(lambda x: field(t, x, c), x.requires_grad_())


def test_images_and_other_dtypes() -> None:
    x = torch.randn(2, 3, 4, 4)
    field = GaussianBaseline(nothing, mean=torch.randn(3, 1, 1), deviation=torch.rand(3, 1, 1) + 0.5)
    for t in (torch.tensor(0.5), torch.tensor([0.2, 0.9])):
        assert field(t, x).shape == Preconditioned(nothing, EDM())(t, x).shape == x.shape
    data = Preconditioned(nothing, EDM())(torch.tensor(0.4), x)
    noise = convert(data, x, 0.4, EDM(), "data", "noise")
    torch.testing.assert_close(data + EDM().at(torch.tensor(0.4)).sigma * noise, x)
    assert Preconditioned(nothing, EDM())(torch.tensor(0.4), x.double()).dtype == D


def test_deviations_that_there_are_not() -> None:
    for value in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="Preconditioned expects deviation to be above 0, got"):
            Preconditioned(nothing, EDM(), value)
        with pytest.raises(ValueError, match="GaussianBaseline expects every deviation to be above 0, got"):
            GaussianBaseline(nothing, deviation=torch.tensor([1.0, value]))
