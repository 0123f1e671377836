"""Fixed permutations of features or channels (dim 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Transform, zero_ladj
from .pullback import Pullback


class Permute(Transform):
    r"""Reorder features (B, D) or channels (B, C, \*rest): :math:`z_i = x_{p(i)}`, log-determinant 0.

    The permutation is a buffer, so a random one survives saving and loading. Cost: one gather, both directions.
    Raises ValueError when the indices are not a permutation of 0..n-1 or dim 1 has another size.

    >>> from pyflowk.transforms import Permute
    >>> import torch
    >>> Permute([2, 0, 1])(torch.tensor([[1.0, 2.0, 3.0]]))[0]
    tensor([[3., 1., 2.]])
    """

    def __init__(self, permutation: Sequence[int] | Tensor) -> None:
        super().__init__()
        with torch.device("cpu"):  # a model that is made on the meta device is checked all the same
            index = torch.as_tensor(permutation, dtype=torch.int64)
        if index.dim() != 1 or sorted(index.tolist()) != list(range(index.numel())):
            raise ValueError(f"Permute expects each of 0..n-1 once, got {index.tolist()}")
        self.permutation: Tensor
        place = index.device if isinstance(permutation, Tensor) else torch.empty(0).device
        self.register_buffer("permutation", index.to(place))

    @classmethod
    def random(cls, features: int, generator: torch.Generator | None = None) -> Permute:
        """A permutation drawn once from ``generator``."""
        with torch.device(generator.device if generator is not None else "cpu"):
            drawn = torch.randperm(features, generator=generator).tolist()
        return cls(drawn)

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(x)
        return x.index_select(1, self.permutation), zero_ladj(x)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(z)
        return z.index_select(1, self.permutation.argsort()), zero_ladj(z)

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        return self.inverse(z)[0], self.inverse(grad_z)[0]

    def _check(self, x: Tensor) -> None:
        if x.dim() < 2 or x.shape[1] != self.permutation.numel():
            raise ValueError(f"Permute expects (B, {self.permutation.numel()}, *rest), got {tuple(x.shape)}")

    def extra_repr(self) -> str:
        return f"features={self.permutation.numel()}"


class Flip(Transform):
    r"""Reverse features or channels: :math:`z_i = x_{D-1-i}`, log-determinant 0; its own inverse.

    Cost: one copy, both directions. Raises ValueError for an x without a feature dimension.

    >>> from pyflowk.transforms import Flip
    >>> import torch
    >>> Flip()(torch.tensor([[1.0, 2.0, 3.0]]))[0]
    tensor([[3., 2., 1.]])
    """

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        if x.dim() < 2:
            raise ValueError(f"Flip expects (B, D, *rest), got {tuple(x.shape)}")
        return x.flip(1), zero_ladj(x)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.forward(z, context)

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        return self.inverse(z)[0], self.inverse(grad_z)[0]
