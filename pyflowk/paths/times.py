r"""At which times a path is looked at in training: laws of a time in [0, 1], with their densities."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor

from .._checks import require_numbers
from ..ops.draw import draw_uniform
from .schedules import CondOT, Schedule

__all__ = [
    "TIME_LAWS", "CosmapTimes", "LogNormalTimes", "LogitNormalTimes", "ModeTimes", "PowerTimes", "ShiftedTimes",
    "TimeLaw", "Times", "UShapedTimes", "UniformTimes", "shift_time", "start_times",
]  # fmt: skip


class Times(Protocol):
    """Whatever draws n times (n,) in [0, 1] from a generator."""

    def __call__(
        self, n: int, generator: Generator | None, *, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor: ...


def start_times(
    n: int, generator: Generator | None = None, *, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Time 0, n times (n,): what distils one Euler step from pairs of noise and data.

    >>> import torch
    >>> from pyflowk.paths import start_times
    >>> start_times(2, dtype=torch.float32, device="cpu")
    tensor([0., 0.])
    """
    return torch.zeros(n, dtype=dtype, device=device)


@dataclass(frozen=True)
class TimeLaw:
    r"""A law of the time, by its distribution function F: what is drawn is :math:`F^{-1}(u)`, u uniform.

    A subclass gives the law on the whole of [0, 1]: ``_quantile(u)``, ``_cdf(t)`` and ``_density(t)``. ``least`` and
    ``most`` cut it off there: what lies beyond is never drawn, the rest keeps its proportions. With ``stratified`` the
    n uniform numbers of a batch are one number and its steps of 1/n around a circle: each time has the same law as
    before, and the batch has exactly one in every n-th part of it, so that its mean is less noisy (Kingma, Salimans,
    Poole, Ho, 2021, arXiv:2107.00630). ``density(t)`` and ``cdf(t)`` are those of what is drawn.

    Raises ValueError unless 0 <= least < most <= 1. Cost: a few operations on (n,) numbers.

    >>> import torch
    >>> from pyflowk.paths import UniformTimes
    >>> times = UniformTimes(least=0.2, most=0.6, stratified=True)
    >>> drawn = times(4, torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
    >>> ((drawn.sort().values - 0.2) / 0.1).floor(), times.density(drawn)
    (tensor([0., 1., 2., 3.]), tensor([2.5000, 2.5000, 2.5000, 2.5000]))
    """

    _: KW_ONLY
    least: float = 0.0
    most: float = 1.0
    stratified: bool = False

    def __post_init__(self) -> None:
        require_numbers(type(self).__name__, least=self.least, most=self.most)
        if not self.least < self.most <= 1:
            raise ValueError(
                f"{type(self).__name__} expects 0 <= least < most <= 1, got least {self.least} and most {self.most}"
            )

    def __call__(
        self, n: int, generator: Generator | None = None, *, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        u = draw_uniform((1 if self.stratified else n,), generator, dtype=dtype, device=device)
        if self.stratified:
            u = (u + torch.arange(n, dtype=dtype, device=device) / max(n, 1)) % 1
        if self._whole:
            return self._quantile(u)
        low, high = self._ends(u)
        return self._quantile(low + (high - low) * u).clamp(self.least, self.most)

    def density(self, t: Tensor) -> Tensor:
        """The density of what is drawn, in 1 / time, of the shape of t; 0 outside of [least, most]."""
        low, high = self._ends(t)
        inside = (t >= self.least) & (t <= self.most)
        return torch.where(inside, self._density(t) / (high - low), 0 * t)

    def cdf(self, t: Tensor) -> Tensor:
        """How likely a time up to t is, of the shape of t."""
        low, high = self._ends(t)
        return (self._cdf(t.clamp(self.least, self.most)) - low) / (high - low)

    @property
    def _whole(self) -> bool:
        return self.least == 0 and self.most == 1

    def _ends(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """F(least) and F(most)."""
        return (
            (0.0, 1.0)
            if self._whole
            else (self._cdf(like.new_tensor(self.least)), self._cdf(like.new_tensor(self.most)))
        )

    def _quantile(self, u: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no quantiles")

    def _cdf(self, t: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no distribution function")

    def _density(self, t: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no density")


@dataclass(frozen=True)
class UniformTimes(TimeLaw):
    """Every time as likely as another.

    >>> import torch
    >>> from pyflowk.paths import UniformTimes
    >>> UniformTimes()(3, torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu").shape
    torch.Size([3])
    """

    def _quantile(self, u: Tensor) -> Tensor:
        return u

    def _cdf(self, t: Tensor) -> Tensor:
        return t

    def _density(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class LogitNormalTimes(TimeLaw):
    r"""Times whose logit :math:`\log t / (1 - t)` is :math:`N(m, s^2)`: more of the middle, or of the side m is on.

    Published values of m count from the noise where that is time 1: their sign changes here, where the data is. JiT and
    its like take m = -0.8, s = 0.8 of data's time. Shifted times of it are those of another m. Raises ValueError unless
    s > 0. Esser et al., 2024, arXiv:2403.03206, section 3.1.

    >>> import torch
    >>> from pyflowk.paths import LogitNormalTimes
    >>> LogitNormalTimes(mean=0.0, std=1.0).density(torch.tensor([0.0, 0.5]))
    tensor([0.0000, 1.5958])
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("LogitNormalTimes", std=self.std, mean=abs(self.mean))
        if self.std == 0:
            raise ValueError("LogitNormalTimes expects std to be above 0, got 0")

    def _quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    def _cdf(self, t: Tensor) -> Tensor:
        return torch.special.ndtr((torch.logit(t) - self.mean) / self.std)

    def _density(self, t: Tensor) -> Tensor:
        z = (torch.logit(t) - self.mean) / self.std
        inside = (t > 0) & (t < 1)
        spread = torch.where(inside, t * (1 - t), 1) * (self.std * math.sqrt(2 * math.pi))
        return torch.exp(-z.square() / 2) / spread


@dataclass(frozen=True)
class LogNormalTimes(TimeLaw):
    r"""Times at which the noise beside the data is log-normal, :math:`\log (\sigma / \alpha) \sim N(m, s^2)`, on a
    schedule.

    The law is cut off where the schedule has no such noise. m and s are EDM's by default; on straight lines they are
    logit-normal times of -m. Raises ValueError unless s > 0. Karras et al., 2022, arXiv:2206.00364, table 1.

    >>> import torch
    >>> from pyflowk.paths import EDM, LogNormalTimes
    >>> t = LogNormalTimes(EDM())(10_000, torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
    >>> EDM().at(t).sigma.log().mean().round(decimals=1)
    tensor(-1.2000)
    """

    schedule: Schedule = field(default_factory=CondOT)
    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("LogNormalTimes", std=self.std, mean=abs(self.mean))
        if self.std == 0:
            raise ValueError("LogNormalTimes expects std to be above 0, got 0")

    def _quantile(self, u: Tensor) -> Tensor:
        wide = u.double()  # as the tails need it
        low, high = self._reach(wide)
        deviations = torch.special.ndtri(low + (high - low) * wide)
        return self.schedule.time(2 * (self.std * deviations - self.mean)).to(u.dtype)

    def _cdf(self, t: Tensor) -> Tensor:
        low, high = self._reach(t)
        return (torch.special.ndtr(self._score(t)) - low) / (high - low)

    def _density(self, t: Tensor) -> Tensor:
        (low, high), c = self._reach(t), self.schedule.at(t)
        inside = (c.alpha > 0) & (c.sigma > 0) & (t >= 0) & (t <= 1) | t.isnan()
        rate = torch.where(inside, c.determinant, 0) / torch.where(inside, c.alpha * c.sigma, 1)
        z = torch.where(inside, self._score(t), 0)
        return torch.exp(-z.square() / 2) * rate / ((high - low) * self.std * math.sqrt(2 * math.pi))

    def _score(self, t: Tensor) -> Tensor:
        """By how many deviations there is less noise than on average."""
        return (self.schedule.log_snr(t) / 2 + self.mean) / self.std

    def _reach(self, like: Tensor) -> Tensor:
        """The share of the whole normal law up to either end of the schedule."""
        return torch.special.ndtr(self._score(like.new_tensor([0.0, 1.0])))


@dataclass(frozen=True)
class ModeTimes(TimeLaw):
    r"""A peak in the middle, and more of both ends than a logit-normal law: :math:`t = u + s(\cos^2(\pi u/2) - 1 + u)`.

    A ``scale`` s below 0 makes the ends likelier than the middle, 0 is uniform. Raises ValueError unless s is from -1
    to :math:`2 / (\pi - 2) = 1.75`. Its distribution function takes 60 bisections. Esser et al., 2024,
    arXiv:2403.03206, section 3.1.

    >>> import torch
    >>> from pyflowk.paths import ModeTimes
    >>> ModeTimes(scale=1.29).density(torch.tensor([0.0, 0.5]))
    tensor([0.4367, 3.7926])
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("ModeTimes", scale=abs(self.scale))
        if not -1 <= self.scale <= 2 / (math.pi - 2):
            raise ValueError(f"ModeTimes expects scale to be from -1 to 2 / (pi - 2), got {self.scale}")

    def _quantile(self, u: Tensor) -> Tensor:
        return u + self.scale * (u - torch.sin(math.pi / 2 * u).square())

    def _cdf(self, t: Tensor) -> Tensor:
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(60):
            middle = (low + high) / 2
            below = self._quantile(middle) < t
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return torch.where(t > 0, high, t.clamp(min=0))

    def _density(self, t: Tensor) -> Tensor:
        return 1 / (1 + self.scale * (1 - math.pi / 2 * torch.sin(math.pi * self._cdf(t))))


@dataclass(frozen=True)
class CosmapTimes(TimeLaw):
    r"""The law that makes equal steps of the angle :math:`\arctan(t / (1 - t))`: straight lines at the times of a
    quarter of a circle, with density :math:`2 / (\pi (1 - 2t + 2t^2))`.

    Esser et al., 2024, arXiv:2403.03206, section 3.1.

    >>> import torch
    >>> from pyflowk.paths import CosmapTimes
    >>> CosmapTimes().cdf(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """

    def _quantile(self, u: Tensor) -> Tensor:
        s, c = torch.sin(math.pi / 2 * u), torch.sin(math.pi / 2 * (1 - u))
        return s / (s + c)

    def _cdf(self, t: Tensor) -> Tensor:
        return torch.atan2(t, 1 - t) / (math.pi / 2)

    def _density(self, t: Tensor) -> Tensor:
        return 2 / math.pi / (1 - 2 * t + 2 * t.square())


@dataclass(frozen=True)
class PowerTimes(TimeLaw):
    r"""More of the late times, where the data takes shape: density :math:`(1 + p)\, t^p`.

    Flow matching posterior estimation writes p as :math:`1 / (1 + \alpha)`. A ``power`` below 0 means more of the early
    times, 0 is uniform. Raises ValueError unless p > -1. Dax et al., 2023, arXiv:2305.17161.

    >>> import torch
    >>> from pyflowk.paths import PowerTimes
    >>> PowerTimes(power=1.0).cdf(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.2500, 1.0000])
    """

    power: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("PowerTimes", power=abs(self.power))
        if self.power <= -1:
            raise ValueError(f"PowerTimes expects power to be above -1, got {self.power}")

    def _quantile(self, u: Tensor) -> Tensor:
        return u ** (1 / (1 + self.power))

    def _cdf(self, t: Tensor) -> Tensor:
        return t ** (1 + self.power)

    def _density(self, t: Tensor) -> Tensor:
        return (1 + self.power) * t**self.power


@dataclass(frozen=True)
class ShiftedTimes(TimeLaw):
    r"""Uniform times whose noise is shifted, :func:`shift_time`: more of the early times for larger events.

    ``shift`` is :math:`\sqrt{D / 4096}` for latents of D elements (Zheng et al., 2025, arXiv:2510.11690), the root of a
    ratio of pixels for pictures of another size (Esser et al., 2024, arXiv:2403.03206, section 5.3.2); 1 is uniform.
    Raises ValueError unless it is above 0.

    >>> import torch
    >>> from pyflowk.paths import ShiftedTimes
    >>> ShiftedTimes(shift=3.0).cdf(torch.tensor([0.0, 0.25, 1.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """

    shift: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("ShiftedTimes", shift=self.shift)
        if self.shift == 0:
            raise ValueError("ShiftedTimes expects shift to be above 0, got 0")

    def _quantile(self, u: Tensor) -> Tensor:
        return shift_time(u, self.shift)

    def _cdf(self, t: Tensor) -> Tensor:
        return shift_time(t, 1 / self.shift)

    def _density(self, t: Tensor) -> Tensor:
        return self.shift / (1 + (self.shift - 1) * t).square()


def shift_time(t: Tensor, shift: float) -> Tensor:
    r"""The time at which there is ``shift`` times as much noise beside the data: :math:`t / (t + s (1 - t))`.

    On straight lines the ratio :math:`\sigma / \alpha` is s times that at t, and for the share of noise
    :math:`\nu = 1 - t` it is the usual :math:`s \nu / (1 + (s - 1) \nu)`. 0 stays 0 and 1 stays 1, and shifts by a and
    b are one by their product. Esser et al., 2024, arXiv:2403.03206, section 5.3.2.

    >>> import torch
    >>> from pyflowk.paths import shift_time
    >>> shift_time(torch.tensor([0.0, 0.5, 1.0]), 3.0)
    tensor([0.0000, 0.2500, 1.0000])
    """
    return t / (t + shift * (1 - t))


@dataclass(frozen=True)
class UShapedTimes(TimeLaw):
    r"""More of both ends: density proportional to :math:`e^{-a t} + e^{-a (1 - t)}`.

    It is for paths between pairs that a flow has made, whose middle is easy. ``steepness`` is a. Raises ValueError
    unless it is above 0 and at most 100. Lee, Lin, Fanti, 2024, arXiv:2405.20320.

    >>> import torch
    >>> from pyflowk.paths import UShapedTimes
    >>> UShapedTimes(steepness=4.0).density(torch.tensor([0.0, 0.5, 1.0]))
    tensor([2.0746, 0.5514, 2.0746])
    """

    steepness: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("UShapedTimes", steepness=self.steepness)
        if not 0 < self.steepness <= 100:
            raise ValueError(f"UShapedTimes expects steepness to be above 0 and at most 100, got {self.steepness}")

    def _quantile(self, u: Tensor) -> Tensor:
        return (0.5 + torch.asinh((2 * u - 1) * self._edge) / self.steepness).clamp(0, 1)

    def _cdf(self, t: Tensor) -> Tensor:
        return (1 + torch.sinh(self.steepness * (t - 0.5)) / self._edge) / 2

    def _density(self, t: Tensor) -> Tensor:
        return self.steepness / 2 * torch.cosh(self.steepness * (t - 0.5)) / self._edge

    @property
    def _edge(self) -> float:
        return math.sinh(self.steepness / 2)


TIME_LAWS: dict[str, type[TimeLaw]] = {
    "uniform": UniformTimes,
    "logit_normal": LogitNormalTimes,
    "log_normal": LogNormalTimes,
    "mode": ModeTimes,
    "cosmap": CosmapTimes,
    "power": PowerTimes,
    "shifted": ShiftedTimes,
    "u_shaped": UShapedTimes,
}
"""Every law of the time by the name that options call it."""
