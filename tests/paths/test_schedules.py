"""Every schedule: derivatives against autograd, the inverse against the function, both ends, and its name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import jvp

from pyflowk import paths
from pyflowk.paths import SCHEDULES, VE, VP, CondOT, Cosine, LinearVP, Lipman, Polynomial, Schedule

CASES = [
    CondOT(), Lipman(), Lipman(0.2), Polynomial(), Polynomial(1), Polynomial(3.5), Cosine(), LinearVP(), VP(),
    VP(0.5, 9), VE(),
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
    first = {VP: math.exp(-(0.5 + 9) / 4) if schedule == VP(0.5, 9) else 0.00657, VE: 1.0}.get(type(schedule), 0.0)
    last = schedule.sigma_min if isinstance(schedule, (Lipman, VE)) else 0.0
    assert c.alpha[0].item() == pytest.approx(first, rel=1e-3) and c.sigma[1].item() == pytest.approx(last, rel=1e-6)
    if not isinstance(schedule, VE):
        assert c.sigma[0].item() == pytest.approx(math.sqrt(1 - first**2) if isinstance(schedule, VP) else 1, abs=1e-6)


def test_numbers_that_make_no_path() -> None:
    for make, message in (
        (lambda: Lipman(1.0), "Lipman expects sigma_min to be below 1, got 1.0"),
        (lambda: Lipman(-0.1), "Lipman expects sigma_min to be a finite number of at least 0"),
        (lambda: Polynomial(0.5), "Polynomial expects power to be at least 1, got 0.5"),
        (lambda: VP(2.0, 1.0), "VP expects 0 < beta_min < beta_max, got 2.0 and 1.0"),
        (lambda: VE(0.0, 1.0), "VE expects 0 < sigma_min < sigma_max, got 0.0 and 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
