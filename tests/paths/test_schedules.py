"""Every schedule: derivatives against autograd, the inverse against the function, both ends, and its name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import jvp

from pyflowk import paths
from pyflowk.paths import (
    EDM,
    SCHEDULES,
    VE,
    VP,
    CondOT,
    Cosine,
    LinearVP,
    Lipman,
    Polynomial,
    Schedule,
    SubVP,
    convert,
)

CASES = [
    CondOT(), Lipman(), Lipman(0.2), Polynomial(), Polynomial(1), Polynomial(3.5), Cosine(), LinearVP(), VP(),
    VP(0.5, 9), SubVP(), SubVP(0.5, 9), VE(), VE(clean=True), EDM(), EDM(20, 3),
]  # fmt: skip
schedules = pytest.mark.parametrize("schedule", CASES, ids=str)
INSIDE = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


def test_what_is_exported_is_registered_and_tested() -> None:
    exported = {
        thing
        for name in paths.__all__
        if isinstance(thing := getattr(paths, name), type) and issubclass(thing, Schedule) and thing is not Schedule
    }
    assert exported == set(SCHEDULES.values()) == {type(case) for case in CASES}


@schedules
def test_rates_are_the_derivatives(schedule: Schedule) -> None:
    def shares(t: Tensor) -> tuple[Tensor, Tensor]:
        return schedule.at(t)[:2]

    slopes = jvp(shares, (INSIDE,), (torch.ones_like(INSIDE),))[1]
    torch.testing.assert_close(tuple(schedule.at(INSIDE)[2:]), slopes, rtol=1e-11, atol=1e-12)
    ratio, growth = jvp(schedule.log_snr, (INSIDE,), (torch.ones_like(INSIDE),))
    c = schedule.at(INSIDE)
    torch.testing.assert_close(growth, 2 * c.determinant / (c.alpha * c.sigma), rtol=1e-9, atol=0)
    assert (ratio.diff() > 0).all()


@schedules
def test_the_inverse_undoes_the_log_ratio(schedule: Schedule) -> None:
    t = torch.cat((ENDS, INSIDE, torch.tensor([1e-6, 1 - 1e-6], dtype=torch.float64)))
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=1e-9, atol=1e-12)
    beyond = schedule.time(torch.tensor([-math.inf, -1e3, 1e3, math.inf], dtype=torch.float64))
    torch.testing.assert_close(beyond, ENDS.repeat_interleave(2), rtol=0, atol=1e-12)


@schedules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends(schedule: Schedule, dtype: torch.dtype) -> None:
    c = schedule.at(ENDS.to(dtype))
    assert all(values.isfinite().all() and values.dtype == dtype for values in (*c, c.determinant))
    assert c.alpha[1] == 1
    start = c.alpha[0].item() ** 2
    bounds = {CondOT(): (0, 1, 0), VP(): (0.00657, math.sqrt(1 - start), 0), SubVP(): (0.00657, 1 - start, 0),
              VP(0.5, 9): (math.exp(-9.5 / 4), math.sqrt(1 - start), 0), VE(): (1, 50, 0.01),
              SubVP(0.5, 9): (math.exp(-9.5 / 4), 1 - start, 0), VE(clean=True): (1, math.sqrt(2500 - 1e-4), 0),
              EDM(): (1, 80, 0), EDM(20, 3): (1, 20, 0)}  # fmt: skip
    last = schedule.sigma_min if isinstance(schedule, Lipman) else 0
    alpha, first, last = bounds.get(schedule, (0, 1, last))
    assert c.alpha[0].item() == pytest.approx(alpha, rel=1e-3) and c.sigma[0].item() == pytest.approx(first, rel=1e-6)
    assert c.sigma[1].item() == pytest.approx(last, rel=1e-6)


S = INSIDE.flip(0)  # how far data are on their way to noise, as the equations of Song et al. count
SMALL, LARGE = 0.1, 20.0
BETA = SMALL + S * (LARGE - SMALL)
SPREAD = -torch.expm1(-2 * S * SMALL - S**2 * (LARGE - SMALL))
#: d log(alpha) / ds and g^2 of dX = f X ds + g dW
EQUATIONS: list[tuple[Schedule, Tensor, Tensor]] = [
    (VP(), -BETA / 2, BETA),
    (SubVP(), -BETA / 2, BETA * SPREAD),
    (VE(), torch.zeros_like(S), 2 * (0.01 * 5000**S) ** 2 * math.log(5000)),
    (VE(clean=True), torch.zeros_like(S), 2 * (0.01 * 5000**S) ** 2 * math.log(5000)),  # sigma(0) is not in it
]


@pytest.mark.parametrize("schedule, drift, square", EQUATIONS, ids=lambda value: str(value)[:10])
def test_the_equations_of_diffusions(schedule: Schedule, drift: Tensor, square: Tensor) -> None:
    c = schedule.at(INSIDE)
    torch.testing.assert_close(-c.alpha_rate / c.alpha, drift, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(2 * c.sigma * c.determinant / c.alpha, square, rtol=1e-9, atol=1e-12)
    x, score = torch.cos(5 * S), torch.sin(7 * S)
    velocity = convert(score, x, INSIDE, schedule, "score", "velocity", least=0.0)  # of conditional flow matching
    torch.testing.assert_close(velocity, square / 2 * score - drift * x, rtol=1e-9, atol=1e-9)


def test_numbers_that_make_no_path() -> None:
    for make, message in (
        (lambda: Lipman(1.0), "Lipman expects sigma_min to be below 1, got 1.0"),
        (lambda: Lipman(-0.1), "Lipman expects sigma_min to be a finite number of at least 0"),
        (lambda: Polynomial(0.5), "Polynomial expects power to be at least 1, got 0.5"),
        (lambda: VP(2.0, 1.0), "VP expects 0 < beta_min < beta_max, got 2.0 and 1.0"),
        (lambda: SubVP(2.0, 1.0), "SubVP expects 0 < beta_min < beta_max, got 2.0 and 1.0"),
        (lambda: VE(0.0, 1.0), "VE expects 0 < sigma_min < sigma_max, got 0.0 and 1.0"),
        (lambda: EDM(0.0), "EDM expects sigma_max above 0 and rho of at least 1, got 0.0, 7.0"),
        (lambda: EDM(80, 0.5), "EDM expects sigma_max above 0 and rho of at least 1, got 80, 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
