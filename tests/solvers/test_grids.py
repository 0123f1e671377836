"""Grids: N steps are N + 1 rising times with both ends, spaced as their papers say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.paths import EDM, VE, VP, CondOT, Cosine, Lipman, Schedule, SubVP
from pyflowk.solvers import (
    check_grid,
    clock_grid,
    karras_grid,
    power_grid,
    resolution_shift,
    shifted_grid,
    uniform_grid,
)

GRIDS: dict[str, Callable[[int], Tensor]] = {
    "uniform": uniform_grid,
    "power": power_grid,
    "shifted": lambda n: shifted_grid(n, 3.0),
    "clock": lambda n: clock_grid(n, VP(), Cosine()),
    **{
        f"karras-{schedule}": lambda n, schedule=schedule: karras_grid(n, schedule)
        for schedule in (CondOT(), Lipman(), Cosine(), VP(), SubVP(), VE(), VE(clean=True), EDM())
    },
    "log-snr": lambda n: karras_grid(n, VP(), math.inf),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_both_ends_and_order(name: str, steps: int) -> None:
    grid = GRIDS[name](steps)
    assert grid.shape == (steps + 1,) and grid.dtype == torch.float64
    assert grid[0] == 0 and grid[-1] == 1 and (grid.diff() > 0).all()
    for count in (0, -1, 1.5):
        with pytest.raises((ValueError, TypeError), match="expects steps to be an integer of at least 1"):
            GRIDS[name](count)  # type: ignore[arg-type]


def test_spacings() -> None:
    assert power_grid(4, 2).tolist() == [0, 0.4375, 0.75, 0.9375, 1]
    noise = 1 - uniform_grid(5)
    torch.testing.assert_close(1 - shifted_grid(5, 3.0), 3 * noise / (1 + 2 * noise))
    composed = 2 * (1 - shifted_grid(5, 1.5)) / (1 + (1 - shifted_grid(5, 1.5)))
    torch.testing.assert_close(1 - shifted_grid(5, 3.0), composed)  # a shift of a shift
    assert torch.equal(shifted_grid(5, 1.0), uniform_grid(5))
    assert resolution_shift(4096) == 1 and resolution_shift(1024) == 0.5
    assert uniform_grid(2, 1.0, 0.5).tolist() == [1, 0.75, 0.5]


def test_the_noise_of_karras() -> None:
    n, (low, high) = 18, (0.002 ** (1 / 7), 80 ** (1 / 7))
    known = torch.tensor([(high + i / (n - 1) * (low - high)) ** 7 for i in range(n)] + [0.0], dtype=torch.float64)
    torch.testing.assert_close(EDM().at(karras_grid(n, EDM())).sigma, known, rtol=1e-10, atol=1e-15)
    c = CondOT().at(karras_grid(n, CondOT()))
    torch.testing.assert_close((c.sigma / c.alpha)[1:], known[1:], rtol=1e-10, atol=1e-15)
    c = VE().at(karras_grid(4, VE(), math.inf))  # which ends in noise: no step from there to none
    torch.testing.assert_close(c.sigma.log().diff(), torch.full((4,), -math.log(5000) / 4, dtype=torch.float64))
    assert torch.equal(karras_grid(3, EDM(sigma_max=10)), karras_grid(3, EDM(sigma_max=10), sigma_max=10))


def test_another_clock() -> None:
    schedule, clock = VP(), Cosine()
    grid = clock_grid(9, CondOT(), clock)
    torch.testing.assert_close(CondOT().log_snr(grid)[1:-1], clock.log_snr(uniform_grid(9))[1:-1])
    torch.testing.assert_close(clock_grid(7, schedule, schedule), uniform_grid(7))
    with pytest.raises(ValueError, match="grid: expected times that rise"):
        clock_grid(100, VE(0.1, 1.0), EDM())


@pytest.mark.parametrize(
    "grid, kind, message",
    [
        ([0.0, 1.0], TypeError, "grid: expected a floating-point tensor of times, got"),
        (torch.arange(3), TypeError, "grid: expected a floating-point tensor of times, got"),
        (torch.zeros(0), ValueError, r"grid: expected the N \+ 1 times \(N \+ 1,\) of at least one step, got \(0,\)"),
        (torch.zeros(2, 2), ValueError, r"of at least one step, got \(2, 2\)"),
        (torch.tensor([0.0, 0.6, 0.5, 1.0]), ValueError, r"that rise, or that fall, got 0, 0\.6, 0\.5, 1"),
        (torch.tensor([0.0, math.nan, 1.0]), ValueError, "that rise, or that fall, got 0, nan, 1"),
        (torch.zeros(20), ValueError, r"got 0, 0, 0, 0, \.\.\., 0, 0, 0, 0"),
        (torch.tensor([1.0, -0.5]), ValueError, r"from 0 \(noise\) to 1 \(data\), got 1, -0\.5"),
    ],
)
def test_grids_that_there_are_not(grid: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        check_grid(grid)


def test_settings_that_there_are_not() -> None:
    calls: list[tuple[Callable[[Schedule], Tensor], str]] = [
        (lambda s: power_grid(3, 0), "power_grid expects power to be above 0"),
        (lambda s: shifted_grid(3, -1), "shifted_grid expects shift to be a finite number of at least 0"),
        (lambda s: karras_grid(3, s, sigma_min=2, sigma_max=1), "expects 0 < sigma_min < sigma_max and rho above 0"),
        (lambda s: karras_grid(3, s, rho=0), "rho above 0, got 0.002, 80.0 and 0"),
        (lambda s: karras_grid(3, VE(1.0, 2.0), sigma_max=0.5), "expects noise that VE.* has, from 1 to 2"),
        (lambda s: uniform_grid(3, 0.5, 0.5), "grid: expected times that rise, or that fall"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call(CondOT())
