r"""How much of the data and how much of the noise there is at each time of an affine path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .._checks import require_numbers
from ..ops.describe import require_kind

__all__ = [
    "EDM", "SCHEDULES", "VE", "VP", "Coefficients", "CondOT", "Cosine", "LinearVP", "Lipman", "Polynomial", "Schedule",
    "SubVP",
]  # fmt: skip

STEEPEST = 1 - 1e-5
"""Where sigma falls to 0 with an infinite slope, its slope at this time is the one of all later times."""


class Coefficients(NamedTuple):
    r"""What a schedule is at times (): :math:`\alpha`, :math:`\sigma` and their derivatives; or at times (B,)."""

    alpha: Tensor
    sigma: Tensor
    alpha_rate: Tensor
    sigma_rate: Tensor

    @property
    def determinant(self) -> Tensor:
        r""":math:`D = \alpha' \sigma - \alpha \sigma'`, which is above 0 as long as the share of data grows."""
        return self.alpha_rate * self.sigma - self.alpha * self.sigma_rate

    def beside(self, x: Tensor) -> Coefficients:
        r"""The same with a size of 1 for each of x (B, \*event), ready to be multiplied with it."""
        return Coefficients(*(c.reshape(*c.shape, *[1] * (x.dim() - 1)) if c.dim() else c for c in self))


@dataclass(frozen=True)
class Schedule:
    r"""The two functions of an affine path :math:`x_t = \alpha_t x_1 + \sigma_t x_0`, t = 0 noise and t = 1 data.

    A subclass gives ``at(t)``, the :class:`Coefficients` at times () or (B,), and ``time(log_snr)``, the inverse of
    ``log_snr``. Times and coefficients are float32 or float64. Cost: a few operations on the times.

    >>> import torch
    >>> from pyflowk.paths import Cosine
    >>> schedule = Cosine()
    >>> schedule.time(schedule.log_snr(torch.tensor([0.0, 0.3, 1.0])))
    tensor([0.0000, 0.3000, 1.0000])
    """

    def at(self, t: Tensor) -> Coefficients:
        raise NotImplementedError(f"{type(self).__name__} has no coefficients")

    def time(self, log_snr: Tensor) -> Tensor:
        """The time at which there is such a log-ratio, of the way's first or last where it has none such."""
        raise NotImplementedError(f"{type(self).__name__} has no inverse")

    def log_snr(self, t: Tensor) -> Tensor:
        r""":math:`\lambda_t = \log (\alpha_t^2 / \sigma_t^2)`: it grows, from :math:`-\infty` where
        :math:`\alpha_0 = 0`, to :math:`\infty` where :math:`\sigma_1 = 0`."""
        alpha, sigma, *_ = self.at(t)
        return 2 * (alpha.log() - sigma.log())


@dataclass(frozen=True)
class CondOT(Schedule):
    r"""Straight lines at constant speed: :math:`\alpha_t = t,\ \sigma_t = 1 - t`.

    Lipman et al., 2023, arXiv:2210.02747; Liu et al., 2023, arXiv:2209.03003.

    >>> import torch
    >>> from pyflowk.paths import CondOT
    >>> CondOT().at(torch.tensor(0.25))
    Coefficients(alpha=tensor(0.2500), sigma=tensor(0.7500), alpha_rate=tensor(1.), sigma_rate=tensor(-1.))
    """

    def at(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, one - t, one, torch.full_like(t, -1.0))

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(log_snr / 2)


@dataclass(frozen=True)
class Lipman(Schedule):
    r"""Straight lines that end in a little noise: :math:`\alpha_t = t,\ \sigma_t = 1 - (1 - \sigma_{\min}) t`.

    Raises ValueError unless ``sigma_min`` is from 0 to 1. Lipman et al., 2023, arXiv:2210.02747.

    >>> import torch
    >>> from pyflowk.paths import Lipman
    >>> Lipman(sigma_min=0.1).at(torch.tensor(1.0)).sigma
    tensor(0.1000)
    """

    sigma_min: float = 1e-4

    def __post_init__(self) -> None:
        require_numbers("Lipman", sigma_min=self.sigma_min)
        if self.sigma_min >= 1:
            raise ValueError(f"Lipman expects sigma_min to be below 1, got {self.sigma_min}")

    def at(self, t: Tensor) -> Coefficients:
        one, lost = torch.ones_like(t), 1 - self.sigma_min
        return Coefficients(t, (1 - t) + self.sigma_min * t, one, -lost * one)

    def time(self, log_snr: Tensor) -> Tensor:
        return (1 / (torch.exp(-log_snr / 2) + (1 - self.sigma_min))).clamp(max=1)


@dataclass(frozen=True)
class Polynomial(Schedule):
    r"""Straight lines at a changing speed: :math:`\alpha_t = t^n,\ \sigma_t = 1 - t^n`.

    Raises ValueError for a power below 1, of which the speed at the start would be infinite.

    >>> import torch
    >>> from pyflowk.paths import Polynomial
    >>> Polynomial(power=2).at(torch.tensor(0.5)).sigma
    tensor(0.7500)
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        require_numbers("Polynomial", power=self.power)
        if self.power < 1:
            raise ValueError(f"Polynomial expects power to be at least 1, got {self.power}")

    def at(self, t: Tensor) -> Coefficients:
        alpha, rate = t**self.power, self.power * t ** (self.power - 1)
        return Coefficients(alpha, 1 - alpha, rate, -rate)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(log_snr / 2) ** (1 / self.power)


@dataclass(frozen=True)
class Cosine(Schedule):
    r"""A quarter of a circle at constant speed: :math:`\alpha_t = \sin(\pi t / 2),\ \sigma_t = \cos(\pi t / 2)`.

    The variance stays 1 where that of the data is. Albergo and Vanden-Eijnden, 2023, arXiv:2209.15571.

    >>> import torch
    >>> from pyflowk.paths import Cosine
    >>> Cosine().at(torch.tensor(1.0)).sigma
    tensor(0.)
    """

    def at(self, t: Tensor) -> Coefficients:
        right = math.pi / 2
        alpha, sigma = torch.sin(right * t), torch.sin(right * (1 - t))  # exactly 0 at its end, as cos is not
        return Coefficients(alpha, sigma, right * sigma, -right * alpha)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(log_snr / 2)) / (math.pi / 2)


@dataclass(frozen=True)
class LinearVP(Schedule):
    r"""The quarter of a circle whose share of data grows evenly: :math:`\alpha_t = t,\ \sigma_t = \sqrt{1 - t^2}`.

    :math:`\sigma'` is infinite at t = 1: from 1 - 1e-5 on it stays what it is there.

    >>> import torch
    >>> from pyflowk.paths import LinearVP
    >>> LinearVP().at(torch.tensor(0.6)).sigma
    tensor(0.8000)
    """

    def at(self, t: Tensor) -> Coefficients:
        inside = t.clamp(max=STEEPEST)
        return Coefficients(t, _leg(t), torch.ones_like(t), -inside / _leg(inside))

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(log_snr).sqrt()


def _leg(t: Tensor) -> Tensor:
    """The square root of 1 - t^2, whose difference loses nothing."""
    return ((1 - t) * (1 + t)).sqrt()


@dataclass(frozen=True)
class VP(Schedule):
    r"""The diffusion that preserves variance: :math:`\alpha_t = e^{-T/2},\ \sigma_t = \sqrt{1 - e^{-T}}`, with
    :math:`T = (1 - t)^2 (\beta_{\max} - \beta_{\min}) / 2 + (1 - t) \beta_{\min}`.

    At t = 0 there still is data, :math:`\alpha_0 = 0.0066` by default: what starts from pure noise is off by as much.
    :math:`\sigma'` is infinite at t = 1: from 1 - 1e-5 on it stays what it is there. Raises ValueError unless
    0 < beta_min < beta_max. Song et al., 2021, arXiv:2011.13456.

    >>> import torch
    >>> from pyflowk.paths import VP
    >>> VP().at(torch.tensor([0.0, 1.0])).alpha
    tensor([0.0066, 1.0000])
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _require_growing(type(self).__name__, beta_min=self.beta_min, beta_max=self.beta_max)

    def at(self, t: Tensor) -> Coefficients:
        inside = t.clamp(max=STEEPEST)
        alpha, sigma = self._shares(t)
        near, steep = self._shares(inside)
        rate = self._rate(inside)
        return Coefficients(alpha, sigma, -self._rate(t) * alpha / 2, rate * near.square() / (2 * steep))

    def time(self, log_snr: Tensor) -> Tensor:
        return self._when(torch.nn.functional.softplus(-log_snr))

    def _shares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        total = self._total(t)
        return torch.exp(-total / 2), (-torch.expm1(-total)).sqrt()

    def _total(self, t: Tensor) -> Tensor:
        """T, which falls to 0."""
        left = 1 - t
        return left.square() * ((self.beta_max - self.beta_min) / 2) + left * self.beta_min

    def _rate(self, t: Tensor) -> Tensor:
        """T', below 0."""
        return (t - 1) * (self.beta_max - self.beta_min) - self.beta_min

    def _when(self, total: Tensor) -> Tensor:
        """The time of a T, which may be infinite."""
        spread = self.beta_max - self.beta_min
        left = 2 * total / ((self.beta_min**2 + 2 * spread * total).sqrt() + self.beta_min)
        return (1 - left).clamp(0, 1).where(total != math.inf, 0.0)


@dataclass(frozen=True)
class SubVP(VP):
    r"""The diffusion whose variance stays below that of :class:`VP`: :math:`\alpha_t = e^{-T/2},\
    \sigma_t = 1 - e^{-T}`, with the T of VP.

    :math:`\sigma` is the square of VP's and falls to 0 with a finite slope. Else as VP. Song et al., 2021,
    arXiv:2011.13456.

    >>> import torch
    >>> from pyflowk.paths import VP, SubVP
    >>> half = torch.tensor(0.5)
    >>> VP().at(half).sigma.square(), SubVP().at(half).sigma
    (tensor(0.9209), tensor(0.9209))
    """

    def at(self, t: Tensor) -> Coefficients:
        alpha, sigma = self._shares(t)
        rate = self._rate(t)
        return Coefficients(alpha, sigma, -rate * alpha / 2, rate * alpha.square())

    def time(self, log_snr: Tensor) -> Tensor:
        return self._when(2 * torch.asinh(torch.exp(-log_snr / 2) / 2))  # sigma / alpha is 2 sinh(T / 2)

    def _shares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        total = self._total(t)
        return torch.exp(-total / 2), -torch.expm1(-total)


@dataclass(frozen=True)
class VE(Schedule):
    r"""The diffusion whose variance explodes: :math:`\alpha_t = 1,\ \sigma_t = \sigma_{\min}
    (\sigma_{\max} / \sigma_{\min})^{1 - t}`.

    There is all of the data at every time, and noise of deviation ``sigma_min`` is left at the end; ``clean`` takes it
    away, :math:`\sigma_t^2 - \sigma_{\min}^2` being the variance, with :math:`\sigma'` infinite at t = 1: from 1 - 1e-5
    on it stays what it is there. What starts from noise starts from :math:`N(0, \sigma_{\max}^2)`. Raises ValueError
    unless 0 < sigma_min < sigma_max. Song et al., 2021, arXiv:2011.13456.

    >>> import torch
    >>> from pyflowk.paths import VE
    >>> VE(sigma_min=0.01, sigma_max=1).at(torch.tensor(0.5)).sigma
    tensor(0.1000)
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    clean: bool = False

    def __post_init__(self) -> None:
        _require_growing("VE", sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def at(self, t: Tensor) -> Coefficients:
        one, sigma = torch.ones_like(t), self._sigma(t)
        steep = self._sigma(t.clamp(max=STEEPEST)) if self.clean else sigma
        left = self.sigma_min**2 / steep if self.clean else 0.0
        return Coefficients(one, sigma, 0 * one, -self._decay * (steep + left))

    def time(self, log_snr: Tensor) -> Tensor:
        if self.clean:
            growth = torch.log1p(torch.exp(-log_snr) / self.sigma_min**2) / 2
            return (1 - growth / self._decay).clamp(0, 1)
        return (1 + (log_snr / 2 + math.log(self.sigma_min)) / self._decay).clamp(0, 1)

    def _sigma(self, t: Tensor) -> Tensor:
        growth = self._decay * (1 - t)
        return self.sigma_min * (torch.expm1(2 * growth).sqrt() if self.clean else torch.exp(growth))

    @property
    def _decay(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM(Schedule):
    r"""All of the data at every time, and noise by a power of the time that is left: :math:`\alpha_t = 1,\
    \sigma_t = \sigma_{\max} (1 - t)^\rho`.

    Equal steps of t are the steps of Karras et al. down to no noise at all. What starts from noise starts from
    :math:`N(0, \sigma_{\max}^2)`. Raises ValueError unless ``sigma_max`` is above 0 and ``rho`` at least 1. Karras et
    al., 2022, arXiv:2206.00364.

    >>> import torch
    >>> from pyflowk.paths import EDM
    >>> EDM().at(torch.tensor([0.0, 0.5, 1.0])).sigma
    tensor([80.0000,  0.6250,  0.0000])
    """

    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        require_numbers("EDM", sigma_max=self.sigma_max, rho=self.rho)
        if self.sigma_max == 0 or self.rho < 1:
            raise ValueError(f"EDM expects sigma_max above 0 and rho of at least 1, got {self.sigma_max}, {self.rho}")

    def at(self, t: Tensor) -> Coefficients:
        one, left = torch.ones_like(t), 1 - t
        rate = -self.rho * self.sigma_max * left ** (self.rho - 1)
        return Coefficients(one, self.sigma_max * left**self.rho, 0 * one, rate)

    def time(self, log_snr: Tensor) -> Tensor:
        return (1 - torch.exp((-log_snr / 2 - math.log(self.sigma_max)) / self.rho)).clamp(0, 1)


def require_schedule(schedule: object) -> None:
    """TypeError for what is no Schedule: a name, or a class of them."""
    require_kind("schedule", schedule, Schedule, "a Schedule, such as pyflowk.paths.VP()")


def _require_growing(owner: str, **limits: float) -> None:
    """Raise unless the two numbers are above 0 and the second is the larger."""
    require_numbers(owner, **limits)
    (first, low), (second, high) = limits.items()
    if not 0 < low < high:
        raise ValueError(f"{owner} expects 0 < {first} < {second}, got {low} and {high}")


SCHEDULES: dict[str, type[Schedule]] = {
    "condot": CondOT,
    "lipman": Lipman,
    "polynomial": Polynomial,
    "cosine": Cosine,
    "linear_vp": LinearVP,
    "vp": VP,
    "sub_vp": SubVP,
    "ve": VE,
    "edm": EDM,
}
"""Every schedule by the name that options call it."""
