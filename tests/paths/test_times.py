"""Every law of the time: its draws against its distribution function, its density, strata, cuts and both ends."""

from __future__ import annotations

import math

import pytest
import torch

from pyflowk import paths
from pyflowk.paths import (
    EDM,
    TIME_LAWS,
    VE,
    VP,
    CosmapTimes,
    LogitNormalTimes,
    LogNormalTimes,
    ModeTimes,
    PowerTimes,
    ShiftedTimes,
    TimeLaw,
    UniformTimes,
    UShapedTimes,
    shift_time,
)

D = torch.float64
CASES: list[TimeLaw] = [
    UniformTimes(), UniformTimes(least=0.1, most=0.3), LogitNormalTimes(), LogitNormalTimes(-0.8, 0.8, least=0.01),
    ModeTimes(), ModeTimes(-1.0), ModeTimes(0.81, most=0.9), CosmapTimes(), PowerTimes(), PowerTimes(-0.5),
    ShiftedTimes(), ShiftedTimes(0.2, least=0.05, most=0.95), UShapedTimes(), UShapedTimes(80.0),
    UShapedTimes(least=0.1), LogNormalTimes(), LogNormalTimes(EDM()), LogNormalTimes(VP(), -0.5, 1.0, most=0.9),
    LogNormalTimes(VE(), 0.0, 2.0),
]  # fmt: skip
laws = pytest.mark.parametrize("law", CASES, ids=str)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_is_exported_is_registered_and_tested() -> None:
    exported = {getattr(paths, name) for name in paths.__all__ if isinstance(getattr(paths, name), type)}
    known = {kind for kind in exported if issubclass(kind, TimeLaw)} - {TimeLaw}
    assert known == set(TIME_LAWS.values()) == {type(case) for case in CASES}


@laws
def test_draws_have_their_law(law: TimeLaw) -> None:
    """The largest distance between the distribution function and that of the draws: Kolmogorov and Smirnov at 1 %."""
    n = 4000
    times = law(n, seeded(), dtype=D, device="cpu").sort().values
    even = (torch.arange(n, dtype=D) + 0.5) / n
    assert (law.cdf(times) - even).abs().max() < 1.63 / math.sqrt(n)
    assert times.min() >= law.least and times.max() <= law.most
    assert torch.equal(times, law(n, seeded(), dtype=D, device="cpu").sort().values)
    few = law(5, seeded(), dtype=torch.float32, device="cpu")
    assert few.shape == (5,) and few.dtype == torch.float32
    assert law(0, seeded(), dtype=D, device="cpu").shape == (0,)


@laws
def test_strata_hold_one_time_each(law: TimeLaw) -> None:
    """And each time alone has the law: the first of many batches."""
    even = type(law)(**{**law.__dict__, "stratified": True})
    places = law.cdf(even(500, seeded(), dtype=D, device="cpu")) * 500
    assert (places.sort().values - 0.5 - torch.arange(500)).abs().max() <= 0.5 + 1e-6
    first = torch.stack([even(3, seeded(seed), dtype=D, device="cpu")[1] for seed in range(100)]).sort().values
    assert (law.cdf(first) - (torch.arange(100, dtype=D) + 0.5) / 100).abs().max() < 1.63 / 10
    assert even(0, seeded(), dtype=D, device="cpu").shape == (0,)
    assert even(1, seeded(), dtype=D, device="cpu").shape == (1,)


@laws
def test_the_density_is_the_derivative_of_the_distribution_function(law: TimeLaw) -> None:
    t = torch.linspace(law.least, law.most, 203, dtype=D)[1:-1]
    h = 1e-5
    rise = (law.cdf(t + h) - law.cdf(t - h)) / (2 * h)
    torch.testing.assert_close(law.density(t), rise, rtol=1e-5, atol=1e-6)
    ends = torch.tensor([law.least, law.most], dtype=D)
    torch.testing.assert_close(law.cdf(ends), torch.tensor([0.0, 1.0], dtype=D), rtol=0, atol=1e-8)
    outside = torch.tensor([law.least - 0.01, law.most + 0.01], dtype=D)
    assert law.density(outside).tolist() == [0, 0] and not law.density(ends).isnan().any()
    assert law.density(torch.tensor([math.nan], dtype=D)).isnan().all()


@laws
def test_the_same_in_single_precision(law: TimeLaw) -> None:
    u = torch.tensor([0.0, 0.25, 0.5, 0.99, 1 - 2**-24], dtype=D)
    assert law._quantile(u.float()).dtype == torch.float32
    torch.testing.assert_close(law._quantile(u.float()).double(), law._quantile(u), rtol=1e-5, atol=1e-6)
    assert law._quantile(u.float()).aminmax().min >= 0 and law._quantile(u.float()).aminmax().max <= 1
    t = torch.tensor([0.15, 0.25], dtype=D)
    assert law.density(t.float()).dtype == law.cdf(t.float()).dtype == torch.float32
    torch.testing.assert_close(law.density(t.float()).double(), law.density(t), rtol=1e-5, atol=1e-6)


def test_closed_forms() -> None:
    t = torch.tensor([0.1, 0.4, 0.7], dtype=D)
    nu = 1 - t  # the share of noise, as published
    torch.testing.assert_close(1 - shift_time(t, 3.0), 3 * nu / (1 + 2 * nu))
    torch.testing.assert_close(shift_time(shift_time(t, 3.0), 0.7), shift_time(t, 2.1))
    assert shift_time(torch.tensor([0.0, 1.0]), 7.3).tolist() == [0, 1]
    published = 1 - t - 0.5 * (torch.cos(math.pi / 2 * t).square() - 1 + t)
    torch.testing.assert_close(ModeTimes(0.5)._quantile(t), 1 - published)
    torch.testing.assert_close(CosmapTimes()._quantile(t), 1 - 1 / (torch.tan(math.pi / 2 * t) + 1))
    exact = torch.exp(-4 * t) + torch.exp(-4 * (1 - t))
    torch.testing.assert_close(UShapedTimes()._density(t) / exact, torch.full_like(t, 4 / (2 - 2 * math.exp(-4))))
    shifted = LogitNormalTimes(0.3, 0.9)._quantile(t)  # a shift of it is another one
    torch.testing.assert_close(shift_time(shifted, 2.5), LogitNormalTimes(0.3 - math.log(2.5), 0.9)._quantile(t))


def test_log_normal_noise() -> None:
    t = torch.linspace(0.01, 0.99, 9, dtype=D)
    same = LogNormalTimes(mean=-0.7, std=1.3), LogitNormalTimes(0.7, 1.3)  # on straight lines
    torch.testing.assert_close(*(law._quantile(t) for law in same))
    torch.testing.assert_close(*(law.density(t) for law in same))
    for schedule in (EDM(), VE()):
        drawn = schedule.at(LogNormalTimes(schedule, 0.5, 0.4)(4000, seeded(), dtype=D, device="cpu")).sigma.log()
        assert drawn.mean().item() == pytest.approx(0.5, abs=0.03) and drawn.std().item() == pytest.approx(
            0.4, rel=0.05
        )


def test_numbers_that_make_no_law() -> None:
    for make, message in (
        (lambda: UniformTimes(least=0.5, most=0.5), "UniformTimes expects 0 <= least < most <= 1, got least 0.5"),
        (lambda: UniformTimes(most=1.5), "UniformTimes expects 0 <= least < most <= 1"),
        (lambda: LogitNormalTimes(std=0), "LogitNormalTimes expects std to be above 0"),
        (lambda: LogitNormalTimes(mean=math.nan), "LogitNormalTimes expects mean to be a finite number"),
        (lambda: LogNormalTimes(std=0), "LogNormalTimes expects std to be above 0"),
        (lambda: ModeTimes(2.0), r"ModeTimes expects scale to be from -1 to 2 / \(pi - 2\), got 2.0"),
        (lambda: PowerTimes(-1.0), "PowerTimes expects power to be above -1, got -1.0"),
        (lambda: ShiftedTimes(0.0), "ShiftedTimes expects shift to be above 0"),
        (lambda: UShapedTimes(0.0), "UShapedTimes expects steepness to be above 0 and at most 100, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
