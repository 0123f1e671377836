"""The contract of a manifold: what every path, field and solver on it asks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .._checks import require_counts

OFF = 0.01
"""How far a point may be from its manifold: bfloat16 keeps two digits of it."""


class Manifold:
    r"""A manifold in the numbers of an event: points are (B, \*shape), and tangent vectors are shaped as their points.

    The metric is that of the space around it, but for a factor that a subclass names, so that the divergence of a field
    of tangent vectors is the sum over an orthonormal ``basis`` of its derivatives along it. ``dim`` is the manifold's
    dimension, ``log_volume`` the logarithm of its volume, infinite for Euclidean space. Points and vectors are float32
    or float64, and x, y, v have the same number of rows; values and their derivatives of all orders are finite, and
    NaN gives NaN. Raises TypeError or ValueError for a shape that cannot hold points.

    A subclass gives ``dim``, ``log_volume``, ``origin``, ``project``, ``tangent``, ``travel``, ``log``, ``basis`` and
    ``bend`` and ``off``, and ``embed``, ``pull`` and ``frame`` where networks should not see the numbers as they are.

    >>> import torch
    >>> from pyflowk.manifolds import Sphere
    >>> sphere = Sphere((3,))
    >>> x, y = torch.eye(3)[:1], torch.eye(3)[1:2]
    >>> sphere.distance(x, y)
    tensor([1.5708])
    """

    dim: int
    log_volume: float
    embedded: int  # numbers of a point as networks see it

    def __init__(self, shape: Sequence[int]) -> None:
        if not isinstance(shape, Iterable):
            raise TypeError(f"{type(self).__name__} expects the shape of a point, such as (3,), got {shape!r}")
        self.shape = tuple(shape)
        require_counts(type(self).__name__, **{f"shape[{i}]": size for i, size in enumerate(self.shape)})
        self.embedded = math.prod(self.shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape})"

    def origin(self, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
        r"""One point, \*shape."""
        raise NotImplementedError(f"{type(self).__name__} has no origin")

    def project(self, x: Tensor) -> Tensor:
        """The nearest point to each x; NaN where all are as near."""
        raise NotImplementedError(f"{type(self).__name__} has no projection")

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """The nearest tangent vector at x to each v."""
        raise NotImplementedError(f"{type(self).__name__} has no tangents")

    def travel(self, x: Tensor, v: Tensor, s: Tensor | float) -> tuple[Tensor, Tensor]:
        """The point at time s of the geodesic that leaves x with velocity v, and its velocity there.

        s is a number, or broadcasts against x.
        """
        raise NotImplementedError(f"{type(self).__name__} has no geodesics")

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The velocity with which the shortest geodesic leaves x to be at y at time 1; one of them, where several are
        as short."""
        raise NotImplementedError(f"{type(self).__name__} has no logarithm")

    def basis(self, x: Tensor) -> Tensor:
        r"""Tangent vectors (B, dim, \*shape) at x, orthonormal as vectors of the space around."""
        raise NotImplementedError(f"{type(self).__name__} has no basis")

    def off(self, x: Tensor) -> Tensor:
        """How far each row (B,) is from being a point."""
        raise NotImplementedError(f"{type(self).__name__} has no distance from it")

    # ---- what follows ------------------------------------------------------------------------------------------------

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """Where the geodesic that leaves x with velocity v is at time 1."""
        return self.travel(x, v, 1.0)[0]

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The metric (B,) of two tangent vectors at x."""
        return (u * v).flatten(1).sum(1)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """The length (B,) of the shortest way from x to y."""
        v = self.log(x, y)
        return self.inner(x, v, v).sqrt()

    def embed(self, x: Tensor) -> Tensor:
        """What networks see of a point: (B, embedded), a smooth function on the manifold."""
        return x.reshape(x.shape[0], self.embedded)

    def pull(self, x: Tensor, u: Tensor) -> Tensor:
        """The tangent vector at x that a vector (B, embedded) means: the nearest one."""
        return self.tangent(x, u.reshape(x.shape))

    def frame(self, x: Tensor) -> Tensor:
        """How what networks see changes along each vector of the basis: (B, dim, embedded)."""
        return self.basis(x).flatten(2)

    def bend(self, x: Tensor, u: Tensor) -> Tensor:
        """The divergence (B,) of what ``pull`` makes of a vector (B, embedded) that is the same at all points.

        Of a field u that varies it is less than the divergence by the sum over the ``frame`` of e du/de.
        """
        raise NotImplementedError(f"{type(self).__name__} has no curvature")

    def check(self, x: Tensor, name: str = "x") -> None:
        """Raise ValueError for rows that are no points; NaN passes."""
        if x.numel() and bool((far := self.off(x)).gt(OFF).any()):
            worst = float(far.nan_to_num(-1.0, math.inf).max())
            raise ValueError(f"{name}: expected points of {self}, got one that is off by {worst:.2g}")
