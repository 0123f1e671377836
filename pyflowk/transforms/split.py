"""Multi-scale flows: half of the variables leave early."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Transform
from .pullback import Pullback


class Split(Transform):
    r"""Map the first half of dim 1 on with ``inner`` and pass the rest through: :math:`z = [f(x_{<}), x_{\ge}]`, flat.

    x is (B, \*shape); the first C//2 channels go through ``inner``, whose output is flattened; z is (B, N) with N the
    number of elements of ``shape``. ``inner_shape`` is the event shape that ``inner`` gives out, by default the one it
    takes in; a Split inside gives (N,). ladj is that of ``inner``.

    Cost: that of ``inner`` and one copy. Raises ValueError when x has another shape or dim 1 has a single channel.
    The multi-scale architecture is that of Dinh, Sohl-Dickstein, Bengio, 2017, arXiv:1605.08803, section 3.6.

    >>> from pyflowk.transforms import Scale, Split
    >>> import torch
    >>> z, ladj = Split(Scale(2.0), (2, 1, 1))(torch.ones(1, 2, 1, 1))
    >>> z, ladj
    (tensor([[2., 1.]]), tensor([0.6931]))
    """

    def __init__(self, inner: Transform, shape: Sequence[int], inner_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.shape = tuple(shape)
        if not self.shape or self.shape[0] < 2:
            raise ValueError(f"Split expects an event of at least two channels, got shape {self.shape}")
        self.kept = self.shape[0] // 2
        kept_shape = (self.kept, *self.shape[1:])
        self.inner_shape = tuple(inner_shape) if inner_shape is not None else kept_shape
        if math.prod(self.inner_shape) != math.prod(kept_shape):
            raise ValueError(f"Split expects inner_shape with the elements of {kept_shape}, got {self.inner_shape}")
        self.inner = inner
        self.stochastic, self.estimates_ladj = inner.stochastic, inner.estimates_ladj

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(x, self.shape, "forward")
        z, ladj = self.inner(x[:, : self.kept], context, generator)
        return self._join(z, x), ladj

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(z, (math.prod(self.shape),), "inverse")
        x, ladj = self.inner.inverse(self._head(z), context, generator)
        return self._with_rest(x, z), ladj

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        x, grad_x = pullback.layer(self.inner, self._head(z), self._head(grad_z), grad_ladj, context)
        return self._with_rest(x, z), self._with_rest(grad_x, grad_z)

    def to_data(self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        self._check(z, (math.prod(self.shape),), "inverse")
        return self._with_rest(self.inner.to_data(self._head(z), context, generator), z)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        self._check(x, self.shape, "initialize")
        return self._join(self.inner.initialize(x[:, : self.kept], context, generator), x)

    def _join(self, z: Tensor, x: Tensor) -> Tensor:
        rest = x[:, self.kept :]
        sizes = math.prod(self.inner_shape), math.prod(self.shape) - math.prod(self.inner_shape)
        return torch.cat((z.reshape(z.shape[0], sizes[0]), rest.reshape(x.shape[0], sizes[1]).to(z.dtype)), dim=1)

    def _head(self, z: Tensor) -> Tensor:
        return z[:, : math.prod(self.inner_shape)].reshape(z.shape[0], *self.inner_shape)

    def _with_rest(self, x: Tensor, z: Tensor) -> Tensor:
        rest = z[:, math.prod(self.inner_shape) :].reshape(z.shape[0], self.shape[0] - self.kept, *self.shape[1:])
        return torch.cat((x, rest.to(x.dtype)), dim=1)

    def _check(self, x: Tensor, shape: tuple[int, ...], where: str) -> None:
        if tuple(x.shape[1:]) != shape:
            raise ValueError(f"Split.{where} expects (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
