"""Trade space for channels."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Transform, zero_ladj
from .pullback import Pullback


class Squeeze(Transform):
    r"""Move each 2 x 2 block of pixels into channels: (B, C, H, W) -> (B, 4C, H/2, W/2), log-determinant 0.

    The channels come block position by block position, in the order (0, 0), (1, 1), (0, 1), (1, 0): the first half of
    the channels is one colour of a checkerboard, so that a split in halves (:class:`Split`, mask "half") keeps an
    evenly spread half of the pixels. Cost: one copy, both directions. Raises ValueError for odd H or W.

    Squeezing between coupling layers: Dinh, Sohl-Dickstein, Bengio, 2017, arXiv:1605.08803.

    >>> from pyflowk.transforms import Squeeze
    >>> import torch
    >>> Squeeze()(torch.arange(4.0).reshape(1, 1, 2, 2))[0].flatten()
    tensor([0., 3., 1., 2.])
    """

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        if x.dim() != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"Squeeze expects (B, C, H, W) with even H and W, got {tuple(x.shape)}")
        top, bottom = x[:, :, 0::2], x[:, :, 1::2]
        parts = (top[..., 0::2], bottom[..., 1::2], top[..., 1::2], bottom[..., 0::2])
        return torch.cat(parts, dim=1), zero_ladj(x)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        if z.dim() != 4 or z.shape[1] % 4:
            raise ValueError(f"Squeeze.inverse expects (B, 4C, H, W), got {tuple(z.shape)}")
        top_left, bottom_right, top_right, bottom_left = z.chunk(4, dim=1)
        top = torch.stack((top_left, top_right), dim=-1).flatten(-2)
        bottom = torch.stack((bottom_left, bottom_right), dim=-1).flatten(-2)
        return torch.stack((top, bottom), dim=-2).flatten(-3, -2), zero_ladj(z)

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        return self.inverse(z)[0], self.inverse(grad_z)[0]
