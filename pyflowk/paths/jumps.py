"""Jumps from noise, t = 0, to data, t = 1: how often, and where to; and how processes that share a path combine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.func import jvp

from .._checks import require_counts, require_numbers
from ..ops.draw import draw_uniform
from ..ops.dtypes import state_dtype
from ..ops.jump_bins import jump_bins
from ..ops.modes import transformed
from ..ops.path_sample import path_sample
from .base import checked_times
from .prediction import convert
from .schedules import CondOT

__all__ = [
    "Bins", "Characteristics", "CondOTJumps", "JumpPath", "JumpSample", "MixtureJumps", "langevin", "minimal_jumps",
    "superposed",
]  # fmt: skip


@dataclass(frozen=True)
class Bins:
    """Equal parts of the range from ``low`` to ``high``, the ``count`` places where jumps land, evenly inside of each.

    Raises ValueError or TypeError for a range that is empty or infinite, and for less than one bin.

    >>> import torch
    >>> from pyflowk.paths import Bins
    >>> Bins(-1, 1, 4).index(torch.tensor([-5.0, 0.1, 1.0]))
    tensor([0, 2, 3])
    """

    low: float
    high: float
    count: int

    def __post_init__(self) -> None:
        require_counts("Bins", count=self.count)
        require_numbers("Bins", low=abs(self.low), high=abs(self.high))
        if not self.low < self.high:
            raise ValueError(f"Bins expects low to be below high, got {self.low} and {self.high}")

    @property
    def width(self) -> float:
        """Of one bin."""
        return (self.high - self.low) / self.count

    def index(self, x: Tensor) -> Tensor:
        """In which bin numbers lie, int64; those beyond the range in the first or the last. On the CPU NaN, which lies
        in none, raises ValueError."""
        if x.is_cpu and not transformed() and bool(x.isnan().any()):
            raise ValueError(f"Bins: expected numbers; got nan at {tuple(x.isnan().nonzero()[0].tolist())}")
        return ((x - self.low) / self.width).floor().clamp(0, self.count - 1).long()

    def land(self, logits: Tensor, u: Tensor) -> Tensor:
        r"""Places, shaped as uniform numbers u in [0, 1), by the quantiles of a law with logits (\*u.shape, count)."""
        below = torch.softmax(logits, -1).cumsum(-1)
        below = below / below[..., -1:]
        bin = (below <= u.unsqueeze(-1)).sum(-1).clamp(max=self.count - 1)
        last = below.gather(-1, bin.unsqueeze(-1)).squeeze(-1)
        first = torch.where(bin > 0, below.gather(-1, (bin - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1), 0.0)
        inside = ((u - first) / (last - first)).clamp(0, 1)
        return self.low + self.width * (bin + inside)

    def mean(self, logits: Tensor) -> Tensor:
        """The mean of such a law."""
        places = torch.arange(self.count, dtype=logits.dtype, device=logits.device) + 0.5
        return self.low + self.width * (torch.softmax(logits, -1) @ places)


class Characteristics(NamedTuple):
    r"""What a Markov process does at (t, x), coordinate by coordinate, each part None where there is none such.

    It moves with the ``drift`` (B, \*event), diffuses with the ``variance`` (B, \*event) per unit of time, and jumps
    :math:`\lambda` times per unit of time: ``intensity`` (B, \*event) is :math:`\log\, (1 - t) \lambda`, which is of
    order one up to the end; ``landing`` (B, \*event, count) are logits of the :class:`Bins` where jumps land. Where it
    is of other coordinates, too, that x is: a process jumps in one coordinate at a time.
    """

    drift: Tensor | None = None
    variance: Tensor | None = None
    intensity: Tensor | None = None
    landing: Tensor | None = None


def superposed(first: Characteristics, second: Characteristics, share: float) -> Characteristics:
    r"""The process :math:`a L_1 + (1 - a) L_2`, a = ``share`` from 0 to 1: it keeps the marginals that both have.

    Drifts, variances and rates of jumps are mixed; the noise itself has :math:`\sqrt a` of its size. Raises ValueError
    for another share. Holderrieth et al., 2024, arXiv:2410.20587.

    >>> import torch
    >>> from pyflowk.paths import Characteristics, superposed
    >>> still, moving = Characteristics(torch.zeros(1)), Characteristics(torch.ones(1))
    >>> superposed(still, moving, 0.25).drift
    tensor([0.7500])
    """
    require_numbers("superposed", share=share)
    if share > 1:
        raise ValueError(f"superposed expects share to be from 0 to 1, got {share}")
    one, other = _scaled(first, share), _scaled(second, 1 - share)
    drift, variance = (_sum(a, b) for a, b in zip(one[:2], other[:2]))
    if one.landing is None or other.landing is None:
        jumping = other if one.landing is None else one
        return Characteristics(drift, variance, jumping.intensity, jumping.landing)
    assert one.intensity is not None and other.intensity is not None
    rates = [
        part.clamp(min=-1e3).unsqueeze(-1) + torch.log_softmax(logits, -1)  # a law, even where nothing jumps
        for part, logits in ((one.intensity, one.landing), (other.intensity, other.landing))
    ]
    return Characteristics(drift, variance, torch.logaddexp(one.intensity, other.intensity), torch.logaddexp(*rates))


def _scaled(part: Characteristics, share: float) -> Characteristics:
    drift, variance, intensity, landing = part
    if intensity is not None:
        intensity = intensity + (math.log(share) if share else -math.inf)
    drift, variance = (None if part is None else share * part for part in (drift, variance))
    return Characteristics(drift, variance, intensity, landing)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def langevin(flow: Characteristics, t: Tensor, x: Tensor, scale: float) -> Characteristics:
    r"""The flow with noise that changes no marginal: :math:`w = c (1 - t)` times the score more drift, variance 2 w.

    ``drift`` is the velocity of straight lines from standard normal noise, c = ``scale`` at least 0; t is () or (B,).
    Song et al., 2021, arXiv:2011.13456.

    >>> import torch
    >>> from pyflowk.paths import Characteristics, langevin
    >>> langevin(Characteristics(torch.ones(1, 1)), torch.tensor(0.5), torch.zeros(1, 1), 1.0)[:2]
    (tensor([[1.5000]]), tensor([[1.]]))
    """
    require_numbers("langevin", scale=scale)
    if flow.drift is None:
        raise ValueError("langevin expects a process with a drift, got one without")
    noise = convert(flow.drift, x, t, CondOT(), "velocity", "noise")
    variance = (2 * scale * CondOT().at(t).beside(x).sigma).expand_as(x)
    return Characteristics(flow.drift - scale * noise, _sum(flow.variance, variance), *flow[2:])


class JumpSample(NamedTuple):
    r"""Events on their way: ``x_t`` (B, \*event) at times ``t`` (B,), the ``velocity`` (B, \*event) of a flow along the
    same path, None where there is none, and of its jumps ``intensity`` (B, \*event), :math:`(1 - t) \lambda`, and
    ``masses`` (B, \*event, count) of the bins where they land."""

    x_t: Tensor
    t: Tensor
    velocity: Tensor | None
    intensity: Tensor
    masses: Tensor


@dataclass(frozen=True)
class JumpPath:
    r"""A way from noise x0 to data x1 that jumps can go, given both: what generator matching regresses on.

    ``sample(x0, x1, t, generator)`` takes x0 and x1 (B, \*event) and times () or (B,); the average of what it gives of
    rates, over all pairs that pass through x at t, generates the path of all data. ``growth(t, s)`` is the number of
    jumps from t to s where :math:`(1 - t) \lambda = 1` at t. A subclass gives ``_sample``, whose arguments are checked,
    and ``growth``. Raises ValueError as :class:`Path` does, and, on the CPU, for data outside of the ``bins``.
    """

    bins: Bins

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor | float, generator: Generator | None = None) -> JumpSample:
        """What lies at times t between the rows of x0 and of x1."""
        t = checked_times(x0, x1, t)
        if x1.is_cpu and x1.numel() and not transformed():
            low, high = (end.item() for end in x1.detach().aminmax())
            rounding = 1e-6 * (self.bins.high - self.bins.low)
            if low < self.bins.low - rounding or high > self.bins.high + rounding:
                raise ValueError(
                    f"x1: expected data from {self.bins.low:g} to {self.bins.high:g}, where jumps land; got {low:g} to "
                    f"{high:g}"
                )
        dtype = state_dtype(x1)
        return self._sample(x0.to(dtype), x1.to(dtype), t, generator)

    def growth(self, t: Tensor, s: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no growth")

    def _sample(self, x0: Tensor, x1: Tensor, t: Tensor, generator: Generator | None) -> JumpSample:
        raise NotImplementedError(f"{type(self).__name__} has no sample")


@dataclass(frozen=True)
class CondOTJumps(JumpPath):
    r"""Jumps along :math:`N(t x_1, (1 - t)^2)`, those of :func:`pyflowk.ops.jump_bins`, and the flow on straight lines.

    Jumps leave what is too far from :math:`t x_1`, or behind it, and land in between: no process has fewer. Of data
    in [-r, r] they land in [-q, q] with :math:`q = (r + \sqrt{r^2 + 4}) / 2`, ``CondOTJumps.reaching(r, count)``.
    ``growth`` takes the numerator of the rate, :math:`k / (1 - t)^3`, to stay as it is: :math:`\tfrac12 ((1 - t)^2 / (1
    - s)^2 - 1)`. Cost: an exponential a bin. Holderrieth et al., 2024, arXiv:2410.20587.

    >>> import torch
    >>> from pyflowk.paths import CondOTJumps
    >>> path = CondOTJumps.reaching(1.0, 64)
    >>> sample = path.sample(torch.full((1, 1), -2.0), torch.ones(1, 1), 0.5)
    >>> sample.x_t, sample.intensity, sample.masses.shape
    (tensor([[-0.5000]]), tensor([[5.]]), torch.Size([1, 1, 64]))
    """

    @classmethod
    def reaching(cls, most: float, count: int) -> CondOTJumps:
        """With bins where jumps of data from -most to most land; ValueError for a most that is no number above 0."""
        require_numbers("CondOTJumps", most=most)
        end = (most + math.sqrt(most * most + 4)) / 2
        return cls(Bins(-end, end, count))

    def growth(self, t: Tensor, s: Tensor) -> Tensor:
        return (((1 - t) / (1 - s)).square() - 1) / 2

    def _sample(self, x0: Tensor, x1: Tensor, t: Tensor, generator: Generator | None) -> JumpSample:
        x_t, velocity = path_sample(x1, CondOT().at(t), x0=x0)
        rates = jump_bins(x0, x1, t, low=self.bins.low, high=self.bins.high, bins=self.bins.count)
        return JumpSample(x_t, t, velocity, *rates)


@dataclass(frozen=True)
class MixtureJumps(JumpPath):
    r"""Noise that is replaced by data, each coordinate at once: at t it still is noise with probability 1 - t.

    All jump at the rate :math:`\lambda = 1 / (1 - t)`, to data, which where they are data already changes nothing;
    other speeds are other grids. There is no flow along it. Cost: a pass over the bins. Gat et al., 2024,
    arXiv:2407.15595; Holderrieth et al., 2024, arXiv:2410.20587.

    >>> import torch
    >>> from pyflowk.paths import Bins, MixtureJumps
    >>> MixtureJumps(Bins(-1, 1, 2)).sample(torch.zeros(1, 1), torch.ones(1, 1), 1.0)
    JumpSample(x_t=tensor([[1.]]), t=tensor([1.]), velocity=None, intensity=tensor([[1.]]), masses=tensor([[[0., 1.]]]))
    """

    def growth(self, t: Tensor, s: Tensor) -> Tensor:
        return torch.log((1 - t) / (1 - s))

    def _sample(self, x0: Tensor, x1: Tensor, t: Tensor, generator: Generator | None) -> JumpSample:
        u = draw_uniform(x1.shape, generator, dtype=x1.dtype, device=x1.device)
        x_t = torch.where(u < t.reshape(-1, *[1] * (x1.dim() - 1)), x1, x0)
        intensity, bin = 1 + 0 * x1, self.bins.index(x1.nan_to_num())
        masses = intensity.unsqueeze(-1) * F.one_hot(bin, self.bins.count)
        return JumpSample(x_t, t, None, intensity, masses)


def minimal_jumps(
    log_density: Callable[[Tensor, Tensor], Tensor], t: Tensor, x: Tensor, bins: Bins, points: int = 16
) -> Characteristics:
    r"""The jumps that any density on the line can be carried by, and no process has fewer: :math:`\lambda =
    \max(-\partial_t \log p_t(x), 0)`, and they land where it grows, :math:`J(y) \propto \max(\partial_t p_t(y), 0)`.

    ``log_density(t, x)`` is differentiable in its times, elementwise in t and x (B,) or what broadcasts with them; t
    and x are (B,). A bin's mass is that at its ``points`` midpoints. Cost: B (1 + count points) densities with their
    derivatives. Holderrieth et al., 2024, arXiv:2410.20587.

    >>> import torch
    >>> from pyflowk.paths import Bins, minimal_jumps
    >>> def log_density(t, x):  # of N(t, (1 - t)^2)
    ...     return -((x - t) / (1 - t)).square() / 2 - torch.log(1 - t)
    >>> found = minimal_jumps(log_density, torch.tensor([0.5]), torch.tensor([-0.5]), Bins(-2, 2, 4))
    >>> found.intensity.exp(), torch.softmax(found.landing, -1)
    (tensor([5.]), tensor([[0.0000, 0.0000, 0.8894, 0.1106]]))
    """
    require_counts("minimal_jumps", points=points)

    def growth(t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        t = t + 0 * x
        value, rate = jvp(lambda t: log_density(t, x), (t,), (torch.ones_like(t),))[:2]
        return value, rate

    intensity = torch.log(torch.relu(-(1 - t) * growth(t, x)[1]))
    step = bins.width / points
    nodes = bins.low + step * (torch.arange(bins.count * points, dtype=x.dtype, device=x.device) + 0.5)
    log_p, rate = growth(t.unsqueeze(1), nodes.expand(len(x), -1))
    masses = torch.relu(log_p.exp() * rate).unflatten(1, (bins.count, points)).sum(2)
    return Characteristics(intensity=intensity, landing=masses.log())
