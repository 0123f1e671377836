"""Rotations in three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Manifold
from .sphere import NEAR, cosine_and_sinc

ITERATIONS = 9
"""Of Newton's method: to rounding, even in float64, where one singular value is a hundred times another."""


class SO3(Manifold):
    r"""The rotations, orthogonal matrices (3, 3) of determinant 1, or several: the last two axes hold one.

    :math:`\exp_R(R \hat\omega) = R\,e^{\hat\omega}` by Rodrigues' formula; the logarithm by quaternions, which lose
    nothing near half a turn, where one of the two shortest ways is taken. The metric is half of that of matrices, so
    that ``distance`` is the angle of the rotation that leads from one to the other, and the volume 8 pi^2. ``project``
    is the nearest rotation by Newton's method for the polar decomposition, NaN for a matrix of determinant 0 or less.
    Raises ValueError unless the last axes are (3, 3). Cost: some dozens of passes over the event.

    >>> import math
    >>> import torch
    >>> from pyflowk.manifolds import SO3
    >>> SO3((3, 3)).distance(torch.eye(3)[None], torch.diag(torch.tensor([-1.0, -1.0, 1.0]))[None])
    tensor([3.1416])
    """

    def __init__(self, shape: Sequence[int] = (3, 3)) -> None:
        super().__init__(shape)
        if self.shape[-2:] != (3, 3):
            raise ValueError(f"SO3 expects matrices (3, 3) on the last axes, got {self.shape}")
        self.count = math.prod(self.shape[:-2])
        self.dim = 3 * self.count
        self.log_volume = self.count * math.log(8 * math.pi**2)

    def origin(self, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
        return torch.eye(3, dtype=dtype, device=device).expand(self.shape)

    def project(self, x: Tensor) -> Tensor:
        cofactors, determinant = _cofactors(x)
        scale = determinant.pow(1 / 3)  # NaN below 0
        x, cofactors, determinant = x / scale, cofactors / scale.square(), torch.ones_like(scale)
        for _ in range(ITERATIONS):
            x = (x + cofactors / determinant) / 2
            cofactors, determinant = _cofactors(x)
        return x

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return x @ _hat(_vee(x.mT @ v))

    def travel(self, x: Tensor, v: Tensor, s: Tensor | float) -> tuple[Tensor, Tensor]:
        omega = _vee(x.mT @ v)
        spin = _hat(omega)
        squared = omega.square().sum(-1)[..., None, None] * (s * s)
        sine, versine = cosine_and_sinc(squared)[1], cosine_and_sinc(squared / 4)[1].square() / 2
        turned = x @ spin
        point = x + s * sine * turned + s * s * versine * (turned @ spin)
        return point, point @ spin

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        quaternion = _quaternion(x.mT @ y)
        real, axis = quaternion[..., :1], quaternion[..., 1:]
        squared = axis.square().sum(-1, keepdim=True)
        near = squared < NEAR
        length = torch.where(near, 1.0, squared).sqrt()
        ratio = torch.where(near, 2 + squared / 3, 2 * torch.atan2(length, real) / length)
        return x @ _hat(ratio * axis)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return super().inner(x, u, v) / 2

    def basis(self, x: Tensor) -> Tensor:
        spins = _hat(torch.eye(3, dtype=x.dtype, device=x.device)) / math.sqrt(2)
        frames = x.reshape(x.shape[0], self.count, 1, 3, 3) @ spins
        apart = torch.eye(self.count, dtype=x.dtype, device=x.device)
        return (frames.unsqueeze(3) * apart[:, None, :, None, None]).reshape(x.shape[0], self.dim, *self.shape)

    def bend(self, x: Tensor, u: Tensor) -> Tensor:
        return -(x * u.reshape(x.shape)).flatten(1).sum(1)

    def off(self, x: Tensor) -> Tensor:
        gap = (x.mT @ x - torch.eye(3, dtype=x.dtype, device=x.device)).abs().flatten(-2).amax(-1)
        turned_over = (_cofactors(x)[1] < 0)[..., 0, 0]
        return torch.where(turned_over, 2.0, gap / 2).reshape(x.shape[0], self.count).amax(1)


def _cofactors(x: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices of cofactors, which are the inverse transposed times the determinants (..., 1, 1)."""
    a, b, c = x.unbind(-1)
    columns = [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)]
    return torch.stack(columns, -1), (a * columns[0]).sum(-1)[..., None, None]


def _hat(omega: Tensor) -> Tensor:
    """The matrix (..., 3, 3) by which a vector (..., 3) takes its cross products."""
    x, y, z = omega.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))


def _vee(m: Tensor) -> Tensor:
    """The vector of the skew part of a matrix: the nearest of `_hat`."""
    skew = m - m.mT
    return torch.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), -1) / 2


def rotation(quaternion: Tensor) -> Tensor:
    """The rotation (..., 3, 3) of a unit quaternion (..., 4), real part first; a sign changes nothing."""
    w, axis = quaternion[..., :1, None], quaternion[..., 1:]
    spin = _hat(axis)
    return torch.eye(3, dtype=spin.dtype, device=spin.device) + 2 * (w * spin + spin @ spin)


def _quaternion(m: Tensor) -> Tensor:
    """The unit quaternion (..., 4) of a rotation whose real part is not below 0; Shepperd, 1978.

    Each row of 4 q q' is the quaternion times one of its parts; the largest part loses nothing.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in m.unbind(-2))
    x, y, z = h - f, c - g, d - b
    products = torch.stack((
        1 + a + e + i, x, y, z,
        x, 1 + a - e - i, b + d, c + g,
        y, b + d, 1 - a + e - i, f + h,
        z, c + g, f + h, 1 - a - e + i,
    ), -1).unflatten(-1, (4, 4))  # fmt: skip
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    row = products.gather(-2, largest.expand(*largest.shape[:-1], 4)).squeeze(-2)
    row = row / torch.linalg.vector_norm(row, dim=-1, keepdim=True)
    return torch.where(row[..., :1] < 0, -row, row)
