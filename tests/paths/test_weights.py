"""Weights: what one error is in terms of another, at every time; divergences by the likelihood's; laws undone."""

from __future__ import annotations

import itertools

import pytest
import torch

from pyflowk.paths import (
    PREDICTIONS,
    VP,
    CondOT,
    Cosine,
    CosmapTimes,
    ErrorWeight,
    ImportanceWeight,
    LikelihoodWeight,
    LogitNormalTimes,
    MinSNRWeight,
    Schedule,
    UniformTimes,
    UnitWeight,
    convert,
)
from tests.paths.test_schedules import schedules

D = torch.float64
INSIDE = torch.linspace(0.05, 0.95, 19, dtype=D)


@schedules
def test_errors_in_the_words_of_every_prediction(schedule: Schedule) -> None:
    """Two predictions of the same event, converted: the ratio of their squared distances."""
    x, one, two = torch.ones(19, 1, dtype=D), torch.full((19, 1), 0.3, dtype=D), torch.full((19, 1), -0.5, dtype=D)
    for source, target in itertools.product(PREDICTIONS, PREDICTIONS):
        known = [convert(value, x, INSIDE, schedule, source, target, least=0.0) for value in (one, two)]
        ratio = ((known[0] - known[1]) / (one - two)).square().squeeze(1)
        torch.testing.assert_close(ErrorWeight(schedule, source, target, least=0.0)(INSIDE), ratio)
    # weights of the same kind for several predictions weigh the same
    for kind in (LikelihoodWeight, MinSNRWeight, UnitWeight):
        for source, target in itertools.product(PREDICTIONS, PREDICTIONS):
            said = kind(schedule, target, least=0.0)(INSIDE) * ErrorWeight(schedule, source, target, least=0.0)(INSIDE)
            torch.testing.assert_close(kind(schedule, source, least=0.0)(INSIDE), said)


@schedules
def test_published_forms(schedule: Schedule) -> None:
    alpha, sigma, *_ = c = schedule.at(INSIDE)
    t = INSIDE.clone().requires_grad_()
    (growth,) = torch.autograd.grad(schedule.log_snr(t).sum(), t)
    torch.testing.assert_close(LikelihoodWeight(schedule, "noise", least=0.0)(INSIDE), growth / 2)
    torch.testing.assert_close(LikelihoodWeight(schedule, "velocity", least=0.0)(INSIDE), alpha / sigma / c.determinant)
    ratio, left = (alpha / sigma).square(), (sigma * 0.7).square() / (sigma.square() + (0.7 * alpha).square())
    torch.testing.assert_close(UnitWeight(schedule, "data", 0.7, least=0.0)(INSIDE), 1 / left)
    torch.testing.assert_close(MinSNRWeight(schedule, "data", least=0.0)(INSIDE), ratio.clamp(max=5))
    torch.testing.assert_close(MinSNRWeight(schedule, "noise", 2.0, least=0.0)(INSIDE), ratio.clamp(max=2) / ratio)


def test_the_weighted_loss_of_the_diffusion_is_in_nats() -> None:
    """Data N(m, s^2), predicted as if N(n, r^2): what the loss exceeds its least by is the divergence between them."""
    m, s, n, r = 1.0, 0.5, 0.7, 0.8
    schedule = Cosine()
    log_snr = torch.linspace(-30, 30, 6001, dtype=D)
    t = schedule.time(log_snr)
    alpha, sigma, *_ = schedule.at(t)
    share = {width: alpha * width**2 / (alpha**2 * width**2 + sigma**2) for width in (s, r)}
    # error of the wrong prediction at x_t = alpha x1 + sigma x0, less that of the right one
    mean = (1 - share[r] * alpha) * (n - m)
    spread = ((1 - share[r] * alpha) * s) ** 2 + (share[r] * sigma) ** 2
    best = ((1 - share[s] * alpha) * s) ** 2 + (share[s] * sigma) ** 2
    excess = mean**2 + spread - best
    weight = LikelihoodWeight(schedule, "data", least=0.0)(t) / LikelihoodWeight(schedule, "noise", least=0.0)(t) / 2
    nats = torch.trapezoid(weight * excess, log_snr)  # dt = d log_snr / growth, and the noise's weight is half of that
    divergence = torch.log(torch.tensor(r / s, dtype=D)) + (s**2 + (m - n) ** 2) / (2 * r**2) - 0.5
    torch.testing.assert_close(nats, divergence, rtol=1e-5, atol=0)


@schedules
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_both_ends_are_finite(schedule: Schedule, dtype: torch.dtype) -> None:
    ends = torch.tensor([0.0, 1e-7, 1 - 1e-7, 1.0], dtype=dtype)
    for name in PREDICTIONS:
        weights = [ErrorWeight(schedule, name, other) for other in PREDICTIONS]
        for weight in (*weights, LikelihoodWeight(schedule, name), MinSNRWeight(schedule, name)):
            found = weight(ends)
            assert found.dtype == dtype and found.isfinite().all() and (found >= 0).all()
            assert weight(ends[:0]).shape == (0,)


def test_importance_undoes_the_law() -> None:
    """The average over what one law draws is that over another: sums over even parts of the distribution function."""
    u = (torch.arange(20000, dtype=D) + 0.5) / 20000
    for drawn in (CosmapTimes(), UniformTimes(), LogitNormalTimes(0.0, 2.5)):
        t = drawn._quantile(u)
        weight = ImportanceWeight(drawn, most=1e6)(t)
        assert (weight * t.square()).mean().item() == pytest.approx(1 / 3, rel=1e-3)
        weight = ImportanceWeight(drawn, CosmapTimes(), most=1e6)(t)
        known = CosmapTimes()._quantile(u).square().mean().item()
        assert (weight * t.square()).mean().item() == pytest.approx(known, rel=1e-3)
    assert ImportanceWeight(LogitNormalTimes())(torch.tensor([0.0, 1e-6, 0.5]))[:2].tolist() == [100, 100]


def test_what_is_no_weight() -> None:
    for make in (lambda: ErrorWeight(CondOT(), "speed"), lambda: ErrorWeight(CondOT(), "data", "speed"),
                 lambda: LikelihoodWeight(VP(), "speed"), lambda: MinSNRWeight(VP(), "speed")):  # fmt: skip
        with pytest.raises(ValueError, match="prediction: expected one of velocity, noise, data, score; got 'speed'"):
            make()
    with pytest.raises(TypeError, match="drawn: expected a TimeLaw, which has a density; got <function"):
        ImportanceWeight(lambda n, *_: torch.rand(n))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="MinSNRWeight expects gamma to be a finite number of at least 0, got -1"):
        MinSNRWeight(VP(), gamma=-1)
