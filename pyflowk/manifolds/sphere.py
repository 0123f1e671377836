"""Spheres."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Manifold

NEAR = 1e-8
"""Squares below it are taken by their series, which has lost nothing there, even of float64."""


class Sphere(Manifold):
    r"""The unit sphere :math:`S^{D-1}`, or several: every vector (D,) of the last axis has length 1.

    .. math:: \exp_x v = \cos|v|\,x + \sin|v|\,v/|v|, \qquad
        \log_x y = \theta\,w/|w|,\quad w = y - \langle x, y\rangle x,\quad \theta = \mathrm{atan2}(|w|, \langle x, y
        \rangle).

    From opposite points all directions are as short: ``log`` has one of them, of length pi. Raises ValueError for
    vectors of less than two numbers. Cost: a few passes over the event.

    >>> import torch
    >>> from pyflowk.manifolds import Sphere
    >>> Sphere((3,)).distance(torch.eye(3)[:1], -torch.eye(3)[:1])
    tensor([3.1416])
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        if not self.shape or self.shape[-1] < 2:
            raise ValueError(f"Sphere expects vectors of at least 2 numbers on the last axis, got {self.shape}")
        size, self.count = self.shape[-1], math.prod(self.shape[:-1])
        self.dim = self.count * (size - 1)
        self.log_volume = self.count * (math.log(2) + size / 2 * math.log(math.pi) - math.lgamma(size / 2))

    def origin(self, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
        last = torch.arange(self.shape[-1], device=device) == self.shape[-1] - 1
        return last.to(dtype).expand(self.shape)

    def project(self, x: Tensor) -> Tensor:
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v - _dot(x, v) * x

    def travel(self, x: Tensor, v: Tensor, s: Tensor | float) -> tuple[Tensor, Tensor]:
        squared = _dot(v, v)
        cosine, sine = cosine_and_sinc(s * s * squared)
        return cosine * x + s * sine * v, cosine * v - s * squared * sine * x

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        cosine = _dot(x, y)
        w = self.tangent(x, self.tangent(x, y))  # the first leaves what rounding has put along x
        squared = _dot(w, w)
        aside = squared > torch.finfo(x.dtype).eps ** 2
        length = torch.where(aside, squared, 1.0).sqrt()
        angle = torch.atan2(torch.where(aside, length, 0.0), cosine)
        near = (squared < NEAR) & (cosine > 0)
        by_series = 1 + squared / 6 + 3 / 40 * squared.square()  # of asin(|w|) / |w|
        opposite = ~aside & (cosine < 0)
        return torch.where(opposite, angle * self._aside(x), torch.where(near, by_series, angle / length) * w)

    def basis(self, x: Tensor) -> Tensor:
        frames = self._frames(x)  # (B, *rest, D - 1, D)
        frames = frames.reshape(x.shape[0], self.count, *frames.shape[-2:])
        apart = torch.eye(self.count, dtype=x.dtype, device=x.device)
        # each frame is one of vectors that are zero on the other spheres
        return (frames.unsqueeze(3) * apart[:, None, :, None]).reshape(x.shape[0], self.dim, *self.shape)

    def bend(self, x: Tensor, u: Tensor) -> Tensor:
        return (1 - self.shape[-1]) * (x * u.reshape(x.shape)).flatten(1).sum(1)

    def off(self, x: Tensor) -> Tensor:
        return (torch.linalg.vector_norm(x, dim=-1) - 1).abs().reshape(x.shape[0], self.count).amax(1)

    def _frames(self, x: Tensor) -> Tensor:
        """The rows of a Householder reflection that are not along x: (*x.shape[:-1], D - 1, D)."""
        last = x[..., -1:]
        sign = torch.where(last < 0, -1.0, 1.0)
        w = x + sign * self.origin(x.dtype, x.device)
        unit = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)[:-1]
        return unit - x[..., :-1, None] * (w / (1 + last.abs())).unsqueeze(-2)

    def _aside(self, x: Tensor) -> Tensor:
        """The first vector of each frame."""
        return self._frames(x).select(-2, 0)


def cosine_and_sinc(squared: Tensor) -> tuple[Tensor, Tensor]:
    """cos a and sin(a) / a from the square of a, smooth at 0."""
    near = squared < NEAR
    a = torch.where(near, 1.0, squared).sqrt()
    cosine = torch.where(near, 1 - squared / 2 + squared.square() / 24, a.cos())
    return cosine, torch.where(near, 1 - squared / 6 + squared.square() / 120, a.sin() / a)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)
