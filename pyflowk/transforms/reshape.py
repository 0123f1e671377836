"""Change the shape of the event, element order kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Transform, zero_ladj
from .pullback import Pullback


class Reshape(Transform):
    r"""View ``(B, *before)`` as ``(B, *after)``; log-determinant 0, no cost for contiguous x.

    Raises ValueError when the two shapes do not hold equally many elements or x has another shape.

    >>> from pyflowk.transforms import Reshape
    >>> import torch
    >>> Reshape((1, 2, 2), (4,))(torch.zeros(3, 1, 2, 2))[0].shape
    torch.Size([3, 4])
    """

    def __init__(self, before: Sequence[int], after: Sequence[int]) -> None:
        super().__init__()
        self.before, self.after = tuple(before), tuple(after)
        if math.prod(self.before) != math.prod(self.after):
            raise ValueError(f"Reshape expects equal numbers of elements, got {self.before} and {self.after}")

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return Reshape.to_noise(self, x), zero_ladj(x)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.to_data(z), zero_ladj(z)

    def to_noise(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return _reshape(x, self.before, self.after)

    def to_data(self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return _reshape(z, self.after, self.before)

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        return self.inverse(z)[0], self.inverse(grad_z)[0]

    def extra_repr(self) -> str:
        return f"{self.before} -> {self.after}"


def _reshape(x: Tensor, before: tuple[int, ...], after: tuple[int, ...]) -> Tensor:
    if tuple(x.shape[1:]) != before:
        raise ValueError(f"Reshape expects (B, {', '.join(map(str, before))}), got {tuple(x.shape)}")
    return x.reshape(x.shape[0], *after)
