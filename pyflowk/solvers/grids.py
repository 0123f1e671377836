r"""The times at which a sampler stops on its way from noise, t = 0, to data, t = 1: N steps are N + 1 times."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._checks import require_counts, require_numbers
from ..ops.describe import described, require_data
from ..ops.modes import transformed
from ..paths import Schedule, shift_time
from .ode.times import time_dtype

__all__ = ["check_grid", "clock_grid", "karras_grid", "power_grid", "resolution_shift", "shifted_grid", "uniform_grid"]


def uniform_grid(steps: int, start: float = 0.0, stop: float = 1.0) -> Tensor:
    """Equal steps from start to stop, in either direction: (steps + 1,), float64 on the CPU, as all grids are.

    Raises TypeError or ValueError for a number of steps that is none, ValueError for ends that are one, or outside of
    [0, 1].

    >>> from pyflowk.solvers import uniform_grid
    >>> uniform_grid(4).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    require_counts("uniform_grid", steps=steps)
    return check_grid(torch.linspace(start, stop, steps + 1, dtype=torch.float64))


def power_grid(steps: int, power: float = 2.0) -> Tensor:
    r""":math:`t = 1 - (1 - u)^p` at equal steps of u: steps become shorter near the data, for p = 2 as DDIM's quadratic
    ones.

    Raises ValueError for a power that is not above 0. Song et al., 2021, arXiv:2010.02502.

    >>> from pyflowk.solvers import power_grid
    >>> power_grid(2).tolist()
    [0.0, 0.75, 1.0]
    """
    require_numbers("power_grid", power=power)
    if power == 0:
        raise ValueError("power_grid expects power to be above 0, got 0")
    return check_grid(1 - (1 - uniform_grid(steps)) ** power)


def shifted_grid(steps: int, shift: float) -> Tensor:
    r""":math:`1 - t = s (1 - u) / (1 + (s - 1)(1 - u))` at equal steps of u: a shift s above 1 stays longer at noise.

    A shift of a shift is the shift by their product. Raises ValueError for a shift that is not above 0. Esser et al.,
    2024, arXiv:2403.03206.

    >>> from pyflowk.solvers import shifted_grid
    >>> shifted_grid(2, shift=3).tolist()
    [0.0, 0.25, 1.0]
    """
    require_numbers("shifted_grid", shift=shift)
    if shift == 0:
        raise ValueError("shifted_grid expects shift to be above 0, got 0")
    return check_grid(shift_time(uniform_grid(steps), shift))


def resolution_shift(dims: int, base: int = 4096) -> float:
    r"""The shift :math:`\sqrt{D / D_0}` for events of D elements, 1 at those of ``base``: what a model of larger events
    hears of them at a time is as blurred as before. Esser et al., 2024, arXiv:2403.03206.

    >>> from pyflowk.solvers import resolution_shift
    >>> resolution_shift(4 * 4096)
    2.0
    """
    require_counts("resolution_shift", dims=dims, base=base)
    return math.sqrt(dims / base)


def clock_grid(steps: int, schedule: Schedule, clock: Schedule) -> Tensor:
    """The times at which a schedule has the log-SNR that another one, the clock, has at equal steps, from 0 to 1.

    So the steps that suit one schedule are taken on another: ``Cosine()`` makes a cosine grid. Raises ValueError where
    the schedule does not reach what the clock shows.

    >>> from pyflowk.paths import CondOT, Cosine
    >>> from pyflowk.solvers import clock_grid
    >>> clock_grid(2, CondOT(), Cosine()).tolist()
    [0.0, 0.5, 1.0]
    """
    grid = schedule.time(clock.log_snr(uniform_grid(steps)))
    grid[0], grid[-1] = 0.0, 1.0
    return check_grid(grid)


def karras_grid(
    steps: int, schedule: Schedule, rho: float = 7.0, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> Tensor:
    r"""Equal steps of :math:`(\sigma / \alpha)^{1 / \rho}`, or of the log-SNR for an infinite :math:`\rho`.

    They go from ``sigma_max`` to ``sigma_min``, or as far as the schedule does; one more from there to the end, where
    the schedule ends without noise. The first time is 0 in any case. Raises ValueError unless 0 < sigma_min < sigma_max
    and rho is above 0. Karras et al., 2022, arXiv:2206.00364.

    >>> from pyflowk.paths import EDM
    >>> from pyflowk.solvers import karras_grid
    >>> grid = karras_grid(4, EDM())
    >>> [round(sigma, 3) for sigma in EDM().at(grid).sigma.tolist()]
    [80.0, 9.723, 0.47, 0.002, 0.0]
    """
    require_counts("karras_grid", steps=steps)
    require_numbers("karras_grid", sigma_min=sigma_min, sigma_max=sigma_max)
    if not 0 < sigma_min < sigma_max or not rho > 0:
        raise ValueError(
            f"karras_grid expects 0 < sigma_min < sigma_max and rho above 0, got {sigma_min}, {sigma_max} and {rho}"
        )
    alpha, sigma, *_ = schedule.at(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu"))
    widest, least = (sigma / alpha).tolist()
    high, low = min(sigma_max, widest), max(sigma_min, least)
    if not low < high:
        raise ValueError(f"karras_grid expects noise that {schedule} has, from {least:g} to {widest:g}, got others")
    u = torch.linspace(0, 1, steps + (least > 0), dtype=torch.float64, device="cpu")
    if rho == math.inf:
        log_ratio = math.log(high) + u * math.log(low / high)
    else:
        log_ratio = rho * torch.log(high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho)))
    grid = schedule.time(-2 * log_ratio)
    grid[0] = 0.0
    return check_grid(torch.cat((grid[:steps], torch.ones_like(grid[:1]))))


def check_grid(grid: Tensor) -> Tensor:
    """The grid in the clock's type; ValueError or TypeError unless it is (N + 1,) times in [0, 1], N >= 1, that rise or
    fall. The times of a grid on another device than the CPU are not looked at, which would stall it."""
    if not isinstance(grid, Tensor) or not grid.is_floating_point():
        raise TypeError(f"grid: expected a floating-point tensor of times, got {described(grid)}")
    require_data("grid", grid)
    if grid.dim() != 1 or len(grid) < 2:
        raise ValueError(f"grid: expected the N + 1 times (N + 1,) of at least one step, got {tuple(grid.shape)}")
    if grid.is_cpu and not transformed():
        steps = grid.detach().diff()
        if not (bool((steps > 0).all()) or bool((steps < 0).all())):
            raise ValueError(f"grid: expected times that rise, or that fall, got {_shown(grid)}")
        if not 0 <= min(grid[0], grid[-1]) <= max(grid[0], grid[-1]) <= 1:
            raise ValueError(f"grid: expected times from 0 (noise) to 1 (data), got {_shown(grid)}")
    return grid.to(time_dtype(grid))


def _shown(grid: Tensor) -> str:
    numbers = [f"{time:.4g}" for time in grid.tolist()]
    return ", ".join(numbers if len(numbers) < 9 else [*numbers[:4], "...", *numbers[-4:]])
