"""One constructor of every kind of distribution: what all generic tests run over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy.polynomial import legendre
from torch import Tensor

from pyflowk import distributions as D


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], D.Distribution]
    nodes: Callable[[], tuple[Tensor, Tensor]]  # events (N, *shape) and weights (N,) that sum an integrand over all
    labels: bool = False  # whether it needs a context

    def make(self) -> D.Distribution:
        """Every parameter away from its start, in float64."""
        torch.manual_seed(0)
        distribution = self.build().double()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in distribution.parameters():
                p += 0.4 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        return distribution

    def context(self) -> Tensor | None:
        """One row."""
        return torch.tensor([1]) if self.labels else None


def plane(low: float, high: float, points: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Midpoints of a square: exact to rounding for densities that vanish at its edge or are periodic."""
    side = (high - low) * (torch.arange(points, dtype=torch.float64) + 0.5) / points + low
    nodes = torch.cartesian_prod(side, side)
    return nodes.reshape(-1, *(shape or (2,))), torch.full((len(nodes),), ((high - low) / points) ** 2).double()


def sphere() -> tuple[Tensor, Tensor]:
    """Midpoints of height and longitude, of equal area by Archimedes' theorem."""
    height = (torch.arange(200, dtype=torch.float64) + 0.5) / 100 - 1
    angle = 2 * math.pi * (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    height, angle = torch.cartesian_prod(height, angle).unbind(1)
    ring = (1 - height**2).sqrt()
    return torch.stack((ring * angle.cos(), ring * angle.sin(), height), 1), torch.full_like(
        height, 4 * math.pi / 200**2
    )


def circles() -> tuple[Tensor, Tensor]:
    angles, weights = plane(0.0, 2 * math.pi, 200)
    return torch.stack((angles.cos(), angles.sin()), 2), weights


def rotations() -> tuple[Tensor, Tensor]:
    """Turns about the third axis, the second, the third again: angle, height and angle cut volume evenly."""
    angle = 2 * math.pi * (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    height, weight = (torch.as_tensor(part) for part in legendre.leggauss(4))
    first, tilt, last = torch.cartesian_prod(angle, height.acos(), angle).unbind(1)
    nodes = _turn(first, 0, 1) @ _turn(tilt, 2, 0) @ _turn(last, 0, 1)
    return nodes, (weight[None, :, None] * (2 * math.pi / 8) ** 2).expand(8, 4, 8).flatten()


def _turn(angle: Tensor, i: int, j: int) -> Tensor:
    """Rotations that turn axis i to axis j."""
    matrix = torch.eye(3, dtype=angle.dtype).repeat(len(angle), 1, 1)
    matrix[:, i, i] = matrix[:, j, j] = angle.cos()
    matrix[:, j, i], matrix[:, i, j] = angle.sin(), -angle.sin()
    return matrix


def cylinder() -> tuple[Tensor, Tensor]:
    line = 24 * (torch.arange(500, dtype=torch.float64) + 0.5) / 500 - 12
    angle = 2 * math.pi * (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    angle, height = torch.cartesian_prod(angle, line).unbind(1)
    nodes = torch.stack((angle.cos(), angle.sin(), height), 1)
    return nodes, torch.full_like(height, 24 / 500 * 2 * math.pi / 64)


def words(length: int, symbols: int) -> tuple[Tensor, Tensor]:
    nodes = torch.cartesian_prod(*[torch.arange(symbols)] * length).reshape(-1, length)
    return nodes, torch.ones(len(nodes), dtype=torch.float64)


def rows() -> tuple[Tensor, Tensor]:
    return torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=torch.float64), torch.ones(2, dtype=torch.float64)


CASES = [
    Case("gaussian", lambda: D.DiagonalGaussian((2,)), lambda: plane(-9, 9, 400)),
    Case("gaussian-learned", lambda: D.DiagonalGaussian((2, 1), learned=True), lambda: plane(-12, 12, 500, 2, 1)),
    Case("gaussian-classes", lambda: D.ClassConditionalGaussian((2,), 3), lambda: plane(-12, 12, 500), labels=True),
    Case("mixture", lambda: D.GaussianMixture((2,), 3), lambda: plane(-14, 14, 600)),
    Case("uniform", lambda: D.Uniform((2,), 0.25, 1.75), lambda: plane(-1, 3, 64)),
    Case("sphere", lambda: D.UniformSphere((3,)), sphere),
    Case("sphere-two-circles", lambda: D.UniformSphere((2, 2)), circles),
    Case("torus", lambda: D.UniformTorus((2,)), lambda: plane(0, 2 * math.pi, 100)),
    Case("rotations", lambda: D.UniformSO3(), rotations),
    Case("joint", lambda: D.Joint([D.UniformSphere((2,)), D.DiagonalGaussian((1,), learned=True)]), cylinder),
    Case("empirical", lambda: D.Empirical(torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.0, 1.0]])), rows),
    Case("categorical", lambda: D.Categorical((3,), 4), lambda: words(3, 4)),
    Case("categorical-given", lambda: D.Categorical((2,), 3, [0.5, 0.0, 0.25]), lambda: words(2, 3)),
    Case("categorical-learned", lambda: D.Categorical((2,), 5, learned=True), lambda: words(2, 5)),
]
