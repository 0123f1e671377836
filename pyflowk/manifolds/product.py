"""Products of manifolds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Manifold


class Product(Manifold):
    """Several manifolds at once: an event (D,) is the numbers of a point of each, one behind the other.

    Geodesics go along those of each factor, the metric is the sum of theirs, the volume the product. A factor's points
    are flattened: a rotation has nine numbers. Raises TypeError for what is no Manifold, ValueError for none.

    >>> import torch
    >>> from pyflowk.manifolds import Product, Sphere, Torus
    >>> product = Product((Sphere((3,)), Torus((2,))))
    >>> product.shape, product.dim
    ((5,), 4)
    """

    def __init__(self, parts: Sequence[Manifold]) -> None:
        self.parts = tuple(parts)
        for part in self.parts:
            if not isinstance(part, Manifold):
                raise TypeError(f"Product expects manifolds, got {part!r}")
        if not self.parts:
            raise ValueError("Product expects at least one manifold, got none")
        self.sizes = [math.prod(part.shape) for part in self.parts]
        super().__init__((sum(self.sizes),))
        self.dim = sum(part.dim for part in self.parts)
        self.log_volume = sum(part.log_volume for part in self.parts)
        self.embedded = sum(part.embedded for part in self.parts)

    def __repr__(self) -> str:
        return f"Product({self.parts})"

    def origin(self, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
        return torch.cat([part.origin(dtype, device).reshape(-1) for part in self.parts])

    def project(self, x: Tensor) -> Tensor:
        return self._each(lambda part, x: part.project(x), x)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self._each(lambda part, x, v: part.tangent(x, v), x, v)

    def travel(self, x: Tensor, v: Tensor, s: Tensor | float) -> tuple[Tensor, Tensor]:
        ways = []
        for part, (at, along) in zip(self.parts, self._split(x, v), strict=True):
            beside = s.reshape(-1, *[1] * (at.dim() - 1)) if isinstance(s, Tensor) and s.dim() else s
            ways.append(part.travel(at, along, beside))
        point, velocity = ([end.flatten(1) for end in ends] for ends in zip(*ways, strict=True))
        return torch.cat(point, 1), torch.cat(velocity, 1)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self._each(lambda part, x, y: part.log(x, y), x, y)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        pieces = zip(self.parts, self._split(x, u, v), strict=True)
        return torch.stack([part.inner(*piece) for part, piece in pieces]).sum(0)

    def basis(self, x: Tensor) -> Tensor:
        pieces = zip(self.parts, self._split(x), strict=True)
        return _apart([part.basis(at).flatten(2) for part, (at,) in pieces])

    def frame(self, x: Tensor) -> Tensor:
        return _apart([part.frame(at) for part, (at,) in zip(self.parts, self._split(x), strict=True)])

    def bend(self, x: Tensor, u: Tensor) -> Tensor:
        pieces = zip(self.parts, self._split(x), self._seen(u), strict=True)
        return torch.stack([part.bend(at, v) for part, (at,), v in pieces]).sum(0)

    def off(self, x: Tensor) -> Tensor:
        pieces = zip(self.parts, self._split(x), strict=True)
        return torch.stack([part.off(at) for part, (at,) in pieces]).amax(0)

    def embed(self, x: Tensor) -> Tensor:
        pieces = zip(self.parts, self._split(x), strict=True)
        return torch.cat([part.embed(at) for part, (at,) in pieces], 1)

    def pull(self, x: Tensor, u: Tensor) -> Tensor:
        pieces = zip(self.parts, self._split(x), self._seen(u), strict=True)
        return torch.cat([part.pull(at, v).flatten(1) for part, (at,), v in pieces], 1)

    def _seen(self, u: Tensor) -> tuple[Tensor, ...]:
        """For each factor its piece of what networks see."""
        return u.split([part.embedded for part in self.parts], 1)

    def _split(self, *tensors: Tensor) -> list[list[Tensor]]:
        """For each factor its piece of each tensor, in the factor's shape."""
        pieces = [x.split(self.sizes, 1) for x in tensors]
        return [
            [piece[i].reshape(piece[i].shape[0], *part.shape) for piece in pieces] for i, part in enumerate(self.parts)
        ]

    def _each(self, answer: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        pieces = zip(self.parts, self._split(*tensors), strict=True)
        return torch.cat([answer(part, *piece).flatten(1) for part, piece in pieces], 1)


def _apart(frames: list[Tensor]) -> Tensor:
    """Vectors (B, K_i, D_i) of the factors as vectors (B, sum of K_i, sum of D_i) that are zero along the others."""
    before, width, wide = 0, sum(frame.shape[2] for frame in frames), []
    for frame in frames:
        wide.append(F.pad(frame, (before, width - before - frame.shape[2])))
        before += frame.shape[2]
    return torch.cat(wide, 1)
