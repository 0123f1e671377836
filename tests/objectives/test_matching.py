"""Matching against closed forms: what is left at its best, and the gradient of the distance to the average."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

import pyflowk
from pyflowk.distributions import DiagonalGaussian, Uniform
from pyflowk.nets import MLPField, VelocityField
from pyflowk.objectives import SF2M, Matching
from pyflowk.ops.draw import draw_keys
from pyflowk.paths import (
    PREDICTIONS,
    SCHEDULES,
    AffinePath,
    CondOT,
    ErrorWeight,
    Path,
    PathSample,
    Schedule,
    Times,
    UniformTimes,
)
from tests.paths.oracles import GAUSSIAN

schedules = pytest.mark.parametrize("name", SCHEDULES)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def at(time: float) -> Times:
    """The same time for every row."""
    return lambda n, generator, *, dtype, device: torch.full((n,), time, dtype=dtype, device=device)


def gaussian(n: int) -> Tensor:
    return 1 + 0.5 * torch.randn(n, 1, dtype=torch.float64, generator=seeded(7))


def within(losses: Tensor, level: float) -> None:
    error = losses.std().item() / math.sqrt(len(losses))
    assert losses.mean().item() == pytest.approx(level, abs=4 * error) and error < 0.03 * level


@schedules
def test_the_best_field_leaves_the_variance_of_what_passes_through(name: str) -> None:
    """Data N(1, s^2): D^2 s^2 / C for velocities, alpha^2 s^2 / C for noise, sigma^2 s^2 / C for data, and for scores
    that of noise by sigma^2."""
    schedule, time, s = SCHEDULES[name](), 0.4, 0.5
    alpha, sigma, *_ = c = schedule.at(torch.tensor(time, dtype=torch.float64))
    variance = (alpha * s) ** 2 + sigma**2
    factors = {"velocity": c.determinant, "noise": alpha, "data": sigma, "score": alpha / sigma}
    for prediction in PREDICTIONS:
        loss = Matching(AffinePath(schedule), prediction, times=at(time))
        losses = loss(best(schedule, prediction), gaussian(4000), generator=seeded())
        within(losses, (factors[prediction].square() * s**2 / variance).item())


def best(schedule: Schedule, prediction: str) -> Callable[..., Tensor]:
    return lambda t, x: GAUSSIAN.predictions(x[:, 0], t, schedule)[prediction].unsqueeze(1)


def test_what_is_left_over_all_times_of_straight_lines() -> None:
    within(Matching()(best(CondOT(), "velocity"), gaussian(40000), generator=seeded()), math.pi / 2 * 0.5)


@schedules
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_gradient_is_that_of_the_distance_to_the_average(name: str, prediction: str) -> None:
    """Over three events and quadrature nodes of the noise: the expectations are sums, the average has a closed form."""
    schedule, data = SCHEDULES[name](), torch.tensor([-1.0, 0.2, 1.5], dtype=torch.float64)
    time, nodes = 0.5, torch.linspace(-8, 8, 401, dtype=torch.float64)
    weights = 0.04 * torch.exp(-nodes.square() / 2) / math.sqrt(2 * math.pi) / 3
    x1, x0 = data.repeat_interleave(401).unsqueeze(1), nodes.repeat(3).unsqueeze(1)
    torch.manual_seed(0)
    field = MLPField(1, 8, 1).double()
    for p in field.parameters():
        torch.nn.init.normal_(p, std=0.5, generator=seeded(p.numel()))
    loss = Matching(
        AffinePath(schedule), prediction, times=at(time), pairing=lambda _, x1, context, generator: (x0, x1, context)
    )
    given = loss(field, x1)
    alpha, sigma, alpha_rate, sigma_rate = schedule.at(torch.tensor(time, dtype=torch.float64))
    x = alpha * x1 + sigma * x0
    share = torch.softmax(-((x - alpha * data) ** 2) / (2 * sigma**2), 1)
    noise = (x - alpha * data) / sigma
    passing = {"velocity": alpha_rate * data + sigma_rate * noise, "noise": noise, "data": data.expand_as(noise)}
    passing["score"] = -noise / sigma
    average = (share * passing[prediction]).sum(1, keepdim=True)
    known = (field(time, x) - average).square().squeeze(1)
    both = [torch.autograd.grad((weights.repeat(3) * loss).sum(), list(field.parameters())) for loss in (given, known)]
    assert max(g.abs().max() for g in both[0]) > 1e-2
    torch.testing.assert_close(*both, rtol=1e-6, atol=1e-7)
    assert (weights.repeat(3) * given).sum() > (weights.repeat(3) * known).sum() + 1e-3


def test_noise_of_a_source_times_and_contexts_reach_the_field_in_pairs() -> None:
    x, c = torch.arange(6.0).reshape(3, 2), torch.tensor([[0.0], [1.0], [2.0]])
    seen = []

    def field(t: Tensor, x: Tensor, context: Tensor) -> Tensor:
        seen.append((t, x, context))
        return x

    source = DiagonalGaussian((2,), learned=True)
    with torch.no_grad():
        source.mean += 100
        source.log_std -= 20
    matching = Matching(source=source, times=at(0.25), pairing=lambda x0, x1, c, generator: (x0, x1.flip(0), c.flip(0)))
    loss = matching(field, x, c)
    ((t, x_t, context),) = seen
    assert t.tolist() == [0.25] * 3 and torch.equal(context, c.flip(0))
    torch.testing.assert_close(x_t, 0.75 * 100 + 0.25 * x.flip(0))
    torch.testing.assert_close(loss, (x_t - (x.flip(0) - 100)).square().mean(1))
    with pytest.raises(ValueError, match=r"x0 and x1 of one shape"):
        matching(field, torch.zeros(3, 5), c)


class Late(AffinePath):
    """Straight lines that count by their time."""

    def _sample(self, *arguments: Any) -> PathSample:
        sample = super()._sample(*arguments)
        return sample._replace(weight=sample.t)


def test_the_weight_of_a_path_multiplies_the_squared_error() -> None:
    plain, weighted = (
        Matching(path)(lambda t, x: x, torch.ones(5, 2), generator=seeded()) for path in (AffinePath(), Late())
    )
    generator = seeded()
    draw_keys(5, generator, device="cpu")
    torch.testing.assert_close(weighted, torch.rand(5, generator=generator) * plain)


@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_noise_is_the_same_mixed_in_or_seen(prediction: str) -> None:
    """By a pairing that could look at it, of a source that is standard normal, without kernels: the same seed, loss
    and gradient of an encoder before it."""
    x = torch.randn(7, 3, generator=seeded(3)).requires_grad_()
    ways = {
        "fused": Matching(prediction=prediction),
        "paired": Matching(prediction=prediction, pairing=lambda x0, x1, context, generator: (x0, x1, context)),
        "source": Matching(prediction=prediction, source=DiagonalGaussian((3,))),
        "reference": Matching(prediction=prediction),
    }
    found = []
    for way, matching in ways.items():
        with pyflowk.backend("reference") if way == "reference" else nullcontext():
            generator = seeded()
            loss = matching(lambda t, x: x.sin() * t.unsqueeze(1), x, generator=generator)
            found.append((loss, *torch.autograd.grad(loss.sum(), x), torch.rand(1, generator=generator)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


ANSWERS: list[tuple[Any, Any, str]] = [
    (lambda t, x: x[:, :1], None, r"field: expected the state's shape \(3, 2\); got \(3, 1\)"),
    (lambda t, x: (x, x), None, r"field: expected a tensor of the state's shape \(3, 2\); got a tuple of"),
    (nn.Sequential(nn.Linear(2, 2)), None, r"2 positional .* 3 were given; a field is called with \(t, x\)$"),
    (lambda t, x: x, torch.zeros(3, 2), r"called with \(t, x, context\) where a context .*leave .*FunctionField"),
    (lambda t, x, context: x, 3, "context: expected a tensor, one row per event of x, got an int"),
    (torch.zeros(3, 2), None, r"field: expected a function of \(t, x\) or \(t, x, context\); got a tensor \(3, 2\)"),
]


@pytest.mark.parametrize("field, context, message", ANSWERS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_no_answer_no_field_and_no_context_is_named(field: Any, context: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Matching()(field, torch.zeros(3, 2), context)


def test_what_is_no_event_is_named() -> None:
    for x, message in (
        (np.zeros((3, 2)), r"x: expected a tensor of events \(B, \*event\), got a numpy array \(3, 2\), float64"),
        (torch.zeros(()), r"x: expected events \(B, \*event\), got a tensor \(\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            Matching()(lambda t, x: x, x)
        with pytest.raises((TypeError, ValueError), match=message):
            SF2M()(lambda t, x: x, lambda t, x: x, x)


@schedules
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_learns_by_the_loss_of_another(name: str, prediction: str) -> None:
    """The same network, its prediction said as a velocity: after the weight losses and gradients are equal."""
    schedule, times = SCHEDULES[name](), UniformTimes(least=0.05, most=0.75)  # EDM: noise above the least
    torch.manual_seed(0)
    net = MLPField(2, 8, 1).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.5, generator=seeded(p.numel()))
    x = torch.randn(32, 2, dtype=torch.float64, generator=seeded())
    weight = ErrorWeight(schedule, prediction, "velocity", least=0.0)
    both = (
        Matching(AffinePath(schedule), prediction, times=times, weight=weight)(net, x, generator=seeded()),
        Matching(AffinePath(schedule), times=times)(
            VelocityField(net, schedule, prediction, least=0.0), x, generator=seeded()
        ),
    )
    torch.testing.assert_close(*both)
    gradients = [torch.autograd.grad(loss.mean(), list(net.parameters())) for loss in both]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["condot", "cosine"])
def test_predicted_data_and_its_target_are_clipped_alike(name: str) -> None:
    """At the very end too: the weighted error of the data is that of velocities by one formula."""
    schedule, clip = SCHEDULES[name](), 0.05
    x0, x1, guess = (torch.randn(5, 2, dtype=torch.float64, generator=seeded(seed)) for seed in range(3))
    for time in (0.9, 0.97, 1.0):
        matching = Matching(
            AffinePath(schedule), "data", lambda *pair: (x0, x1, None), at(time),
            ErrorWeight(schedule, "data", "velocity", least=clip),
        )  # fmt: skip
        x_t = matching.path.sample(x0, x1, time).x_t
        velocity, target = (
            VelocityField(lambda t, x: answer, schedule, "data", least=clip)(x_t.new_tensor(time), x_t)  # noqa: B023
            for answer in (guess, x1)
        )
        torch.testing.assert_close(matching(lambda t, x: guess, x1), (velocity - target).square().mean(1))


def test_what_cannot_be_matched() -> None:
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="prediction: expected one of velocity, noise, data, score; got 'speed'"):
        Matching(prediction="speed")
    with pytest.raises(ValueError, match="prediction: score expects an AffinePath, whose noise has a deviation; got "):
        Matching(Path(), "score")
    with pytest.raises(ValueError, match="prediction: score expects standard normal noise as its source, got Uniform"):
        Matching(prediction="score", source=Uniform((2,)))
    for settings, said in (
        ({"path": CondOT()}, r"path: expected a Path, got a schedule alone: say AffinePath\(CondOT\(\)\)"),
        (
            {"path": AffinePath},
            r"path: expected a Path, such as .*, got the class AffinePath itself: say AffinePath\(\)",
        ),
        ({"times": "uniform"}, r"times: expected .*UniformTimes\(\), got 'uniform'"),
        ({"pairing": "optimal_transport"}, r"pairing: expected .*OptimalTransport\(\), got 'optimal_transport'"),
        ({"weight": 2.0}, r"weight: expected a function of the times .*, got 2\.0"),
        ({"source": x}, r"source: expected a Distribution, got a tensor: say pyflowk\.distributions\.Empirical"),
        ({"source": "normal"}, "source: expected a Distribution, .*, got 'normal'"),
    ):
        with pytest.raises(TypeError, match=said):
            Matching(**settings)  # type: ignore[arg-type]
    x = torch.zeros(3, 2)
    x[1] = math.nan
    assert Matching()(lambda t, x: x, x, generator=seeded()).isnan().tolist() == [False, True, False]
    assert Matching()(lambda t, x: x, torch.zeros(3, 2, dtype=torch.bfloat16)).dtype == torch.float32
