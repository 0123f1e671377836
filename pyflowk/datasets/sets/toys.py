"""Seeded two-dimensional densities.

Every generator has the signature `(n, generator) -> (x (n, 2) float32, label (n,) int64)`; the label tells the mixture
component where there is one. Conventions follow the toy sets of Grathwohl et al., FFJORD (2019, arXiv:1810.01367), and
for moons and the s-curve those of Tong et al., Improving and generalizing flow-based generative models with minibatch
optimal transport (2024, arXiv:2302.00482).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ...space import Context, Space
from ..base import Dataset
from ..preparation import Preparation
from ..registry import register

Toy = Callable[[int, Generator], tuple[Tensor, Tensor]]


def register_toy(
    name: str, summary: str, classes: int | None = None, entropy: float | None = None
) -> Callable[[Toy], Toy]:
    """Decorate a generator: `name` is then a data set of 10,000 training, 2,000 validation and 10,000 test points."""

    def decorate(toy: Toy) -> Toy:
        register(name, f"2-D, {summary}")(lambda seed: _load(name, toy, classes, entropy, seed))
        return toy

    return decorate


def _load(name: str, toy: Toy, classes: int | None, entropy: float | None, seed: int) -> Dataset:
    """The three parts are drawn one after the other from one seeded stream."""
    generator = torch.Generator().manual_seed(seed)
    (train, train_context), (valid, valid_context), (test, test_context) = (
        toy(n, generator) for n in (10_000, 2_000, 10_000)
    )
    space = Space((2,), context=None if classes is None else Context("labels", classes))
    plane = Preparation.identity(2, ("x", "y"))
    if classes is None:
        return Dataset(name, space, train, valid, test, entropy=entropy, preparation=plane)
    labels = train_context, valid_context, test_context
    return Dataset(name, space, train, valid, test, *labels, entropy=entropy, preparation=plane)


def _uniform(n: int, generator: Generator) -> Tensor:
    return torch.rand(n, generator=generator)


def _labels(n: int, count: int, generator: Generator) -> Tensor:
    return torch.randint(count, (n,), generator=generator)


def _noise(x: Tensor, std: float, generator: Generator) -> Tensor:
    return x + std * torch.randn(x.shape, generator=generator)


def _polar(radius: Tensor | float, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


# The entropy is a quadrature of the mixture's density; without overlap it would be 2.8379.
@register_toy("8gaussians", "ring of eight Gaussians", 8, 2.8316)
def eight_gaussians(
    n: int, generator: Generator, *, radius: float = 4.0, std: float = 0.5, scale: float = 2**-0.5
) -> tuple[Tensor, Tensor]:
    """Eight Gaussians on a ring. The transport tables of Tong et al. use radius 5, std 1, scale 1.

    >>> import torch
    >>> from pyflowk.datasets.sets.toys import eight_gaussians
    >>> x, label = eight_gaussians(5, torch.Generator().manual_seed(0))
    >>> x.shape, int(label.max()) < 8
    (torch.Size([5, 2]), True)
    """
    label = _labels(n, 8, generator)
    centre = _polar(radius, label * (math.pi / 4))
    return scale * _noise(centre, std, generator), label


@register_toy("moons", "two interleaved half circles", 2)
def moons(n: int, generator: Generator, *, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Two interleaved unit half circles, noise 0.05, times 2, first column minus 1."""
    label = _labels(n, 2, generator)
    arc = _polar(1.0, math.pi * _uniform(n, generator))
    second = torch.stack([1 - arc[:, 0], 0.5 - arc[:, 1]], dim=1)
    x = _noise(torch.where(label[:, None] == 0, arc, second), noise, generator)
    return 2 * x - torch.tensor([1.0, 0.0]), label


@register_toy("checkerboard", "eight uniform squares", 8, math.log(32))
def checkerboard(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Uniform on the 8 dark squares (side 2) of a 4 x 4 board over [-4, 4]^2: entropy ln 32 nats."""
    label = _labels(n, 8, generator)
    column, row = label // 2, 2 * (label % 2) + (label // 2) % 2
    corner = torch.stack([column, row], dim=1)
    return 2 * (corner + torch.rand(n, 2, generator=generator)) - 4, label


@register_toy("scurve", "S-curve")
def s_curve(n: int, generator: Generator, *, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """The x-z plane of the S-curve, noise 0.05, times 1.5."""
    t = 3 * math.pi * (_uniform(n, generator) - 0.5)
    x = torch.stack([t.sin(), t.sign() * (t.cos() - 1)], dim=1)
    return 1.5 * _noise(x, noise, generator), torch.zeros(n, dtype=torch.int64)


@register_toy("swissroll", "Swiss roll")
def swiss_roll(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The x-z plane of the Swiss roll, noise 1, over 5."""
    t = 1.5 * math.pi * (1 + 2 * _uniform(n, generator))
    return _noise(_polar(t, t), 1.0, generator) / 5, torch.zeros(n, dtype=torch.int64)


@register_toy("rings", "four concentric circles", 4)
def rings(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Four concentric circles of radius 3/4, 3/2, 9/4 and 3, noise 0.08."""
    label = _labels(n, 4, generator)
    x = _polar(0.75 * (label + 1), 2 * math.pi * _uniform(n, generator))
    return _noise(x, 0.08, generator), label


@register_toy("pinwheel", "five bent arms", 5)
def pinwheel(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Five Gaussian arms (radial std 0.3, tangential std 0.1) bent by a rotation that grows with the radius."""
    label = _labels(n, 5, generator)
    arm = torch.randn(n, 2, generator=generator) * torch.tensor([0.3, 0.1]) + torch.tensor([1.0, 0.0])
    angle = 2 * math.pi / 5 * label + 0.25 * arm[:, 0].exp()
    cos, sin = angle.cos(), angle.sin()
    x = torch.stack([arm[:, 0] * cos - arm[:, 1] * sin, arm[:, 0] * sin + arm[:, 1] * cos], dim=1)
    return 2 * x, label


@register_toy("2spirals", "two spirals", 2)
def two_spirals(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two spirals of one and a half turns, each the other's point reflection, noise 0.1."""
    label = _labels(n, 2, generator)
    angle = 3 * math.pi * _uniform(n, generator).sqrt()
    jitter = 0.5 * torch.rand(n, 2, generator=generator)
    arm = torch.stack([-angle.cos(), angle.sin()], dim=1) * angle[:, None] + jitter
    return _noise((1 - 2 * label[:, None]) * arm / 3, 0.1, generator), label
