"""Fixed affine maps: a constant, or the statistics of the training set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import require_numbers
from ..ops.dtypes import state_dtype
from .base import Transform, varying, zero_ladj
from .pullback import Pullback


class Scale(Transform):
    r"""Multiply by a constant and add one: :math:`z = a x + b`, :math:`\mathrm{ladj} = D \log |a|`.

    x is (B, \*event) with D elements a row; half precision and integers are computed in float32. Cost: one pass, both
    directions. Raises ValueError unless the factor is finite and not 0 and the shift is finite.

    >>> from pyflowk.transforms import Scale
    >>> import torch
    >>> Scale(1 / 17)(torch.tensor([[17.0, 8.5]]))
    (tensor([[1.0000, 0.5000]]), tensor([-5.6664]))
    """

    def __init__(self, factor: float, shift: float = 0.0) -> None:
        super().__init__()
        if not math.isfinite(factor) or factor == 0 or not math.isfinite(shift):
            raise ValueError(f"Scale expects a finite factor other than 0 and a finite shift, got {factor}, {shift}")
        self.factor, self.shift = float(factor), float(shift)

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        ladj = zero_ladj(x) + math.prod(x.shape[1:]) * math.log(abs(self.factor))
        return Scale.to_noise(self, x), ladj

    def to_noise(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return x.to(state_dtype(x)) * self.factor + self.shift

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        ladj = zero_ladj(z) - math.prod(z.shape[1:]) * math.log(abs(self.factor))
        return (z.to(state_dtype(z)) - self.shift) / self.factor, ladj

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        return self.inverse(z)[0], grad_z * self.factor

    def extra_repr(self) -> str:
        return f"factor={self.factor}, shift={self.shift}"


class Standardize(Transform):
    r"""Remove the mean and the spread of a training set: :math:`z = (x - \mu) / \sigma`, element by element.

    x is (B, \*shape); :math:`\mathrm{ladj} = -\sum \log \sigma`. ``fit(x)`` (or ``initialize``) sets the two buffers
    from a whole set (N, \*shape), N >= 2; before that the map is the identity. A column that is constant up to
    rounding, ``eps`` times its mean, keeps its scale, :math:`\sigma = 1`. Cost: one pass, both directions. Raises
    ValueError when x has another shape, and on fitting to fewer than two rows or to numbers that are not finite.

    >>> from pyflowk.transforms import Standardize
    >>> import torch
    >>> Standardize((1,)).fit(torch.tensor([[0.0], [2.0]]))(torch.tensor([[3.0]]))[0]
    tensor([[2.]])
    """

    def __init__(self, shape: Sequence[int], eps: float = 1e-6) -> None:
        super().__init__()
        require_numbers("Standardize", eps=eps)
        self.eps = float(eps)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(tuple(shape)))
        self.register_buffer("std", torch.ones(tuple(shape)))

    @torch.no_grad()
    def fit(self, x: Tensor) -> Standardize:
        """Take mean and (population) standard deviation from x (N, *shape); returns self."""
        self._check(x)
        if x.shape[0] < 2:
            raise ValueError(f"Standardize.fit expects at least 2 rows, got {x.shape[0]}")
        wide = x.to(torch.float64)
        mean, std = wide.mean(0), wide.std(0, correction=0)
        if not bool((mean.isfinite() & std.isfinite()).all()):
            raise ValueError("Standardize.fit expects finite numbers whose squares are finite, got others")
        self.mean.copy_(mean)
        self.std.copy_(std.where(varying(mean, std, self.eps), 1))
        return self

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return self.fit(x)(x)[0]

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(x)
        return (x - self.mean) / self.std, zero_ladj(x) - self.std.log().sum()

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(z)
        return z * self.std + self.mean, zero_ladj(z) + self.std.log().sum()

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        return self.inverse(z)[0], grad_z / self.std

    def _check(self, x: Tensor) -> None:
        if x.shape[1:] != self.mean.shape:
            raise ValueError(f"Standardize expects (B, {', '.join(map(str, self.mean.shape))}), got {tuple(x.shape)}")
