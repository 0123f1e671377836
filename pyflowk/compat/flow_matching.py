"""flow_matching's classes over the paths and solvers of this package: continuous paths, schedulers, `ODESolver`.

Models keep its convention, ``model(x=x, t=t, **extras)``, t = 0 is noise and t = 1 data in both. Conversions are finite
at both ends. Symbols and manifolds have other names here: docs/migrating.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..paths import VP, AffinePath, CondOT, Cosine, LinearVP, Polynomial, Schedule, convert
from ..solvers import Adaptive, Fixed
from ..transforms import Continuous
from .torchdiffeq import odeint

__all__ = [
    "AffineProbPath",
    "CondOTProbPath",
    "CondOTScheduler",
    "CosineScheduler",
    "LinearVPScheduler",
    "ModelWrapper",
    "ODESolver",
    "PathSample",
    "PolynomialConvexScheduler",
    "Scheduler",
    "SchedulerOutput",
    "VPScheduler",
]


@dataclass
class SchedulerOutput:
    """Shares of data and noise at a time, and how they change."""

    alpha_t: Tensor
    sigma_t: Tensor
    d_alpha_t: Tensor
    d_sigma_t: Tensor


@dataclass
class PathSample:
    """What `AffineProbPath.sample` gives: x_t, and its velocity dx_t, between x_0 and x_1."""

    x_1: Tensor
    x_0: Tensor
    t: Tensor
    x_t: Tensor
    dx_t: Tensor


class Scheduler:
    """A schedule of this package under flow_matching's calls."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, t: Tensor) -> SchedulerOutput:
        found = self.schedule.at(t)
        return SchedulerOutput(found.alpha, found.sigma, found.alpha_rate, found.sigma_rate)

    def snr_inverse(self, snr: Tensor) -> Tensor:
        """The time at which alpha / sigma is ``snr``."""
        return self.schedule.time(2 * snr.log())


class CondOTScheduler(Scheduler):
    """alpha = t, sigma = 1 - t. Lipman et al., 2023, arXiv:2210.02747."""

    def __init__(self) -> None:
        super().__init__(CondOT())


class PolynomialConvexScheduler(Scheduler):
    """alpha = t^n, sigma = 1 - t^n."""

    def __init__(self, n: float) -> None:
        super().__init__(Polynomial(power=n))


class VPScheduler(Scheduler):
    """The variance-preserving diffusion. Song et al., 2021, arXiv:2011.13456."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__(VP(beta_min=beta_min, beta_max=beta_max))


class LinearVPScheduler(Scheduler):
    """alpha = t, sigma = sqrt(1 - t^2)."""

    def __init__(self) -> None:
        super().__init__(LinearVP())


class CosineScheduler(Scheduler):
    """A quarter of a circle. Albergo, Vanden-Eijnden, 2023, arXiv:2209.15571."""

    def __init__(self) -> None:
        super().__init__(Cosine())


class AffineProbPath:
    """x_t = alpha_t x_1 + sigma_t x_0, by :class:`pyflowk.paths.AffinePath`, and the conversions of what is predicted.

    >>> import torch
    >>> from pyflowk.compat.flow_matching import AffineProbPath, CosineScheduler
    >>> path = AffineProbPath(CosineScheduler())
    >>> path.sample(x_0=torch.zeros(3, 2), x_1=torch.ones(3, 2), t=torch.ones(3)).x_t[0]
    tensor([1., 1.])
    """

    def __init__(self, scheduler: Scheduler) -> None:
        if not isinstance(scheduler, Scheduler):
            raise TypeError(f"scheduler: expected one of pyflowk.compat.flow_matching, got {type(scheduler).__name__}")
        self.scheduler, self._path = scheduler, AffinePath(scheduler.schedule)

    def sample(self, x_0: Tensor, x_1: Tensor, t: Tensor) -> PathSample:
        """Between noise and data (B, ...) at times (B,)."""
        found = self._path.sample(x_0, x_1, t)
        return PathSample(x_1, x_0, found.t, found.x_t, found.target)

    def target_to_velocity(self, x_1: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self._convert(x_1, x_t, t, "data", "velocity")

    def epsilon_to_velocity(self, epsilon: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self._convert(epsilon, x_t, t, "noise", "velocity")

    def velocity_to_target(self, velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self._convert(velocity, x_t, t, "velocity", "data")

    def epsilon_to_target(self, epsilon: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self._convert(epsilon, x_t, t, "noise", "data")

    def velocity_to_epsilon(self, velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self._convert(velocity, x_t, t, "velocity", "noise")

    def target_to_epsilon(self, x_1: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self._convert(x_1, x_t, t, "data", "noise")

    def _convert(self, value: Tensor, x_t: Tensor, t: Tensor, given: str, wanted: str) -> Tensor:
        return convert(value, x_t, t, self.scheduler.schedule, given, wanted)


class CondOTProbPath(AffineProbPath):
    """Straight lines."""

    def __init__(self) -> None:
        super().__init__(CondOTScheduler())


class ModelWrapper(nn.Module):
    """A network, called as ``model(x=x, t=t, **extras)``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
        found: Tensor = self.model(x=x, t=t, **extras)
        return found


class ODESolver:
    """Samples and likelihoods of a velocity ``model(x=x, t=t, **extras)``, by the solvers of this package.

    ``method`` and tolerances are torchdiffeq's; ``step_size`` is None for adaptive ones. Raises ValueError for a
    method that is not known.

    >>> import torch
    >>> from pyflowk.compat.flow_matching import ODESolver
    >>> ODESolver(lambda x, t: -x).sample(torch.ones(2, 1), step_size=0.05, method="midpoint").flatten()
    tensor([0.3680, 0.3680])
    """

    def __init__(self, velocity_model: Callable[..., Tensor]) -> None:
        self.velocity_model = velocity_model

    def sample(
        self,
        x_init: Tensor,
        step_size: float | None,
        method: str = "euler",
        atol: float = 1e-5,
        rtol: float = 1e-5,
        time_grid: Tensor | None = None,
        return_intermediates: bool = False,
        enable_grad: bool = False,
        **model_extras: Any,
    ) -> Tensor:
        """Where x_init is at the last time of the grid, 0 to 1 by default, or at all of them, (T, B, ...)."""
        grid = torch.tensor([0.0, 1.0], device=x_init.device) if time_grid is None else time_grid.to(x_init.device)
        options = {} if step_size is None else {"step_size": step_size}
        with torch.set_grad_enabled(enable_grad):
            way: Tensor = odeint(
                lambda t, x: self.velocity_model(x=x, t=t, **model_extras),
                x_init, grid, method=method, options=options, atol=atol, rtol=rtol,
            )  # fmt: skip
        return way if return_intermediates else way[-1]

    def compute_likelihood(
        self,
        x_1: Tensor,
        log_p0: Callable[[Tensor], Tensor],
        step_size: float | None,
        method: str = "euler",
        atol: float = 1e-5,
        rtol: float = 1e-5,
        exact_divergence: bool = False,
        enable_grad: bool = False,
        **model_extras: Any,
    ) -> tuple[Tensor, Tensor]:
        """(x_0, log p_1(x_1)), the trace exact, or by one random direction for each event."""

        def field(t: Tensor, x: Tensor) -> Tensor:  # rows of an adaptive solve have times of their own
            return self.velocity_model(x=x, t=t.reshape(-1) if t.dim() > 1 else t, **model_extras)

        stepping = Adaptive(rtol, atol) if step_size is None else Fixed(max(1, round(1 / step_size)))
        kind = "exact" if exact_divergence else "hutchinson"
        flow = Continuous(field, divergence=kind, method=method, stepping=stepping)
        with torch.set_grad_enabled(enable_grad):
            x_0, ladj = flow(x_1)
            return x_0, log_p0(x_0) + ladj
