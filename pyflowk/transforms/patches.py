"""Images as rows of patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import require_counts
from .base import Transform, zero_ladj
from .pullback import Pullback


class Patches(Transform):
    r"""Cut images into tokens, one a p x p patch: (B, C, H, W) -> (B, H W / p^2, C p^2), log-determinant 0.

    Patches come row by row; of the elements of one the channel changes slowest, then the row. Cost: one copy, both
    directions. Raises ValueError for sides that are no multiples of p, and for x of another shape.

    >>> from pyflowk.transforms import Patches
    >>> import torch
    >>> Patches((1, 2, 4), 2)(torch.arange(8.0).reshape(1, 1, 2, 4))[0]
    tensor([[[0., 1., 4., 5.],
             [2., 3., 6., 7.]]])
    """

    def __init__(self, shape: Sequence[int], patch: int) -> None:
        super().__init__()
        require_counts("Patches", patch=patch)
        if len(shape) != 3 or shape[1] % patch or shape[2] % patch:
            raise ValueError(
                f"Patches expects events (C, H, W) of sides that are multiples of {patch}, got {tuple(shape)}"
            )
        channels, height, width = self.before = tuple(shape)
        self.patch, self.grid = patch, (height // patch, width // patch)
        self.after = (self.grid[0] * self.grid[1], channels * patch * patch)

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        _check(x, self.before)
        cut = x.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # (B, C, rows, p, columns, p)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(x.shape[0], *self.after), zero_ladj(x)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        _check(z, self.after)
        cut = z.reshape(z.shape[0], *self.grid, self.before[0], self.patch, self.patch)
        return cut.permute(0, 3, 1, 4, 2, 5).reshape(z.shape[0], *self.before), zero_ladj(z)

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        return self.inverse(z)[0], self.inverse(grad_z)[0]

    def extra_repr(self) -> str:
        return f"{self.before} -> {self.after}"


def _check(x: Tensor, shape: Sequence[int]) -> None:
    if tuple(x.shape[1:]) != tuple(shape):
        raise ValueError(f"Patches expects (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
