"""Manifolds without curvature: Euclidean space and the flat torus."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Manifold


class Euclidean(Manifold):
    """All of space, where geodesics are straight lines: a factor of products, beside those that are curved.

    >>> import torch
    >>> from pyflowk.manifolds import Euclidean
    >>> Euclidean((2,)).distance(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([5.])
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.dim = math.prod(self.shape)
        self.log_volume = math.inf

    def origin(self, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
        return torch.zeros(self.shape, dtype=dtype, device=device)

    def project(self, x: Tensor) -> Tensor:
        return x

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def travel(self, x: Tensor, v: Tensor, s: Tensor | float) -> tuple[Tensor, Tensor]:
        return x + s * v, v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def basis(self, x: Tensor) -> Tensor:
        unit = torch.eye(self.dim, dtype=x.dtype, device=x.device).reshape(self.dim, *self.shape)
        return unit.expand(x.shape[0], *unit.shape)

    def bend(self, x: Tensor, u: Tensor) -> Tensor:
        return torch.zeros_like(u[:, 0])

    def off(self, x: Tensor) -> Tensor:
        return torch.where(x.isinf(), math.inf, x - x).flatten(1).amax(1)


class Torus(Euclidean):
    """The flat torus of angles: numbers that differ by a multiple of 2 pi are one point, :math:`-\\pi \\le x < \\pi`.

    Geodesics are straight, taken modulo 2 pi; halfway round, ``log`` goes backwards, by -pi. Networks see cosine and
    sine of each angle. The torus has the volume (2 pi)^D.

    >>> import torch
    >>> from pyflowk.manifolds import Torus
    >>> Torus((1,)).log(torch.tensor([[3.0]]), torch.tensor([[-3.0]]))
    tensor([[0.2832]])
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.log_volume = self.dim * math.log(2 * math.pi)
        self.embedded = 2 * self.dim

    def project(self, x: Tensor) -> Tensor:
        turn = 2 * math.pi
        return x - turn * torch.floor(x / turn + 0.5)

    def travel(self, x: Tensor, v: Tensor, s: Tensor | float) -> tuple[Tensor, Tensor]:
        return self.project(x + s * v), v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.project(y - x)

    def embed(self, x: Tensor) -> Tensor:
        flat = x.reshape(x.shape[0], self.dim)
        return torch.cat((flat.cos(), flat.sin()), 1)

    def pull(self, x: Tensor, u: Tensor) -> Tensor:
        along_cosine, along_sine = (part.reshape(x.shape) for part in u.split(self.dim, 1))
        return x.cos() * along_sine - x.sin() * along_cosine

    def frame(self, x: Tensor) -> Tensor:
        flat = x.reshape(x.shape[0], self.dim)
        return torch.cat((torch.diag_embed(-flat.sin()), torch.diag_embed(flat.cos())), 2)

    def bend(self, x: Tensor, u: Tensor) -> Tensor:
        return -(self.embed(x) * u).sum(1)
