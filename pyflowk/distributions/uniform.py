"""Flat densities: on a box, on spheres, on a flat torus, of rotations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from torch import Generator, Tensor
from torch.nn import functional as F

from ..manifolds import SO3, Euclidean, Manifold, Product, Sphere, Torus
from ..manifolds.base import OFF
from ..manifolds.rotations import rotation
from ..ops.draw import draw_normal, draw_uniform
from ..ops.dtypes import state_dtype
from .base import Distribution
from .gaussian import DiagonalGaussian
from .joint import Joint

WIDEST = 1e30
"""Of a box or a period: float32 holds its ends at the temperatures in use."""


class Uniform(Distribution):
    r"""Uniform on a box, :math:`p(z) = (b - a)^{-D}` for :math:`a \le z_i \le b` and 0 elsewhere.

    ``temperature`` stretches the box about its centre. A context is accepted and ignored. Raises ValueError unless
    low < high are at most 1e30 apart. Cost: one pass over the event.

    >>> import torch
    >>> from pyflowk.distributions import Uniform
    >>> Uniform((2,), low=0.0, high=4.0).log_prob(torch.tensor([[1.0, 4.0], [1.0, 5.0]]))
    tensor([-2.7726,    -inf])
    """

    def __init__(self, shape: Sequence[int], low: float = -1.0, high: float = 1.0) -> None:
        super().__init__(shape)
        if not (isinstance(low, (int, float, Real)) and isinstance(high, (int, float, Real))):
            raise TypeError(f"Uniform expects numbers low < high, got {low!r} and {high!r}")
        if not 0 < high - low <= WIDEST:
            raise ValueError(f"Uniform expects low < high, at most {WIDEST} apart, got {low!r} and {high!r}")
        self.low, self.high = float(low), float(high)

    def _log_prob(self, z: Tensor, context: Tensor | None, temperature: float) -> Tensor:
        low, high = self._ends(temperature)
        log_width = math.log(self.high - self.low) + math.log(temperature)  # where rounding joins the ends, too
        return _flat(z, (z < low) | (z > high), -self.dims * log_width)

    def _sample(self, n: int, context: Tensor | None, generator: Generator | None, temperature: float) -> Tensor:
        low, high = self._ends(temperature)
        dtype, device = state_dtype(self.anchor), self.anchor.device
        fraction = draw_uniform((n, *self.shape), generator, dtype=dtype, device=device)
        return (low + (high - low) * fraction).clamp(low, high)  # rounding leaves the box

    def _ends(self, temperature: float) -> tuple[float, float]:
        if temperature == 1:
            return self.low, self.high
        centre, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return centre - temperature * half, centre + temperature * half

    def extra_repr(self) -> str:
        return f"{self.shape}, low={self.low}, high={self.high}"


class UniformSphere(Distribution):
    r"""Uniform on the unit sphere :math:`S^{D-1}`, or on several: every vector (D,) of the last axis has length 1.

    .. math:: \log p(z) = -\log \frac{2 \pi^{D/2}}{\Gamma(D/2)} \text{ for each vector,}

    the density with respect to the sphere's area; -inf for a vector whose length differs from 1 by more than 0.01.
    ``temperature`` and context are accepted and change nothing. Raises ValueError for vectors of less than two numbers.
    Cost: one pass over the event. Muller, 1959, "A note on a method for generating points uniformly on n-dimensional
    spheres".

    >>> import torch
    >>> from pyflowk.distributions import UniformSphere
    >>> UniformSphere((3,)).log_prob(torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.0, 2.0]]))
    tensor([-2.5310,    -inf])
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.manifold = Sphere(self.shape)

    def _log_prob(self, z: Tensor, context: Tensor | None, temperature: float) -> Tensor:
        return _flat(z, self.manifold.off(z) > OFF, -self.manifold.log_volume)

    def _sample(self, n: int, context: Tensor | None, generator: Generator | None, temperature: float) -> Tensor:
        return F.normalize(self._noise(n, generator), dim=-1)


class UniformTorus(Distribution):
    r"""Uniform on the flat torus of angles: every coordinate is taken modulo ``period``, 2 pi by default.

    :math:`p(z) = \text{period}^{-D}`, at every finite z: numbers that differ by the period are one point. Samples lie
    between 0 and the period. ``temperature`` and context are accepted and change nothing. Raises ValueError for a
    period that is no number above 0, at most 1e30. Cost: one pass over the event.

    >>> import torch
    >>> from pyflowk.distributions import UniformTorus
    >>> UniformTorus((2,)).log_prob(torch.tensor([[0.0, 7.0]]))
    tensor([-3.6758])
    """

    def __init__(self, shape: Sequence[int], period: float = 2 * math.pi) -> None:
        super().__init__(shape)
        if not isinstance(period, (int, float, Real)):
            raise TypeError(f"UniformTorus expects period to be a number, got {period!r}")
        if not 0 < period <= WIDEST:
            raise ValueError(f"UniformTorus expects period to be a number > 0, at most {WIDEST}, got {period!r}")
        self.period = float(period)

    def _log_prob(self, z: Tensor, context: Tensor | None, temperature: float) -> Tensor:
        return _flat(z, z.isinf(), -self.dims * math.log(self.period))

    def _sample(self, n: int, context: Tensor | None, generator: Generator | None, temperature: float) -> Tensor:
        dtype, device = state_dtype(self.anchor), self.anchor.device
        return self.period * draw_uniform((n, *self.shape), generator, dtype=dtype, device=device)

    def extra_repr(self) -> str:
        return f"{self.shape}, period={self.period}"


class UniformSO3(Distribution):
    r"""Uniform among the rotations, matrices (3, 3) on the last two axes: Haar's measure.

    :math:`p(z) = 1 / (8 \pi^2)` for each rotation, the density with respect to the volume of
    :class:`pyflowk.manifolds.SO3`; 0 for a matrix that is none, to 0.01. ``temperature`` and context are accepted and
    change nothing. Raises ValueError for other last axes. Cost: one pass over the event. Shoemake, 1992, "Uniform
    random rotations".

    >>> import torch
    >>> from pyflowk.distributions import UniformSO3
    >>> UniformSO3((3, 3)).log_prob(torch.eye(3)[None])
    tensor([-4.3689])
    """

    def __init__(self, shape: Sequence[int] = (3, 3)) -> None:
        super().__init__(shape)
        self.manifold = SO3(self.shape)

    def _log_prob(self, z: Tensor, context: Tensor | None, temperature: float) -> Tensor:
        return _flat(z, self.manifold.off(z) > OFF, -self.manifold.log_volume)

    def _sample(self, n: int, context: Tensor | None, generator: Generator | None, temperature: float) -> Tensor:
        dtype, device = state_dtype(self.anchor), self.anchor.device
        normal = draw_normal((n, *self.shape[:-2], 4), generator, dtype=dtype, device=device)
        return rotation(F.normalize(normal, dim=-1))


def uniform_on(manifold: Manifold) -> Distribution:
    """Whatever is uniform on a manifold; standard normal along its Euclidean factors.

    The density is that with respect to the manifold's volume. Raises TypeError for another kind of manifold.

    >>> from pyflowk.distributions import uniform_on
    >>> from pyflowk.manifolds import manifold
    >>> uniform_on(manifold("sphere(3) x torus(2)", (5,))).sample(4).shape
    torch.Size([4, 5])
    """
    if isinstance(manifold, Product):
        return Joint([uniform_on(part) for part in manifold.parts])
    kinds: dict[type[Manifold], type[Distribution]] = {
        Sphere: UniformSphere, Torus: UniformTorus, SO3: UniformSO3, Euclidean: DiagonalGaussian,
    }  # fmt: skip
    if type(manifold) not in kinds:
        raise TypeError(f"uniform_on expects a manifold of pyflowk.manifolds, got {manifold!r}")
    return kinds[type(manifold)](manifold.shape)


def _flat(z: Tensor, outside: Tensor, log_density: float) -> Tensor:
    """(B,): the density inside, 0 for an event of which any part is outside, NaN where any is NaN."""
    rows = z.new_full((z.shape[0],), log_density).masked_fill(_any(outside), -math.inf)
    return rows.masked_fill(_any(z.isnan()), math.nan)


def _any(marks: Tensor) -> Tensor:
    return marks[:, None].flatten(1).any(1)
