"""Independent Gaussians: standard, learned, or learned for each class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from .._checks import require_counts
from ..shapes import check_labels
from .base import Distribution, check_below

LOG_2PI = math.log(2 * math.pi)


class _Gaussian(Distribution):
    """What a mean and a log standard deviation make: ``location`` gives both, or None for the standard normal."""

    def _log_prob(self, z: Tensor, context: Tensor | None, temperature: float) -> Tensor:
        constant = self.dims * (0.5 * LOG_2PI + math.log(temperature))
        location = self.location(context)
        if location is None:
            return -0.5 * self._sum((z if temperature == 1 else z / temperature).square()) - constant
        mean, log_std = location
        scaled = (z - mean) * torch.exp(-log_std.to(z.dtype)) / temperature
        return self._sum(-0.5 * scaled.square() - log_std) - constant

    def _sample(self, n: int, context: Tensor | None, generator: Generator | None, temperature: float) -> Tensor:
        noise = self._noise(n, generator)
        location = self.location(context)
        if location is None:
            return noise if temperature == 1 else temperature * noise
        mean, log_std = location
        return mean + temperature * torch.exp(log_std) * noise


class DiagonalGaussian(_Gaussian):
    r"""Independent Gaussians, :math:`z_i \sim N(\mu_i, \sigma_i^2)`: standard normal, or learned from there.

    ``learned=True`` makes the mean and the log standard deviation parameters of the given shape. A context is accepted
    and ignored. Cost: one pass over the event in each direction.

    >>> import torch
    >>> from pyflowk.distributions import DiagonalGaussian
    >>> DiagonalGaussian((2,)).log_prob(torch.zeros(1, 2))
    tensor([-1.8379])
    """

    def __init__(self, shape: Sequence[int], learned: bool = False) -> None:
        super().__init__(shape)
        self.learned = learned
        if learned:
            self.mean = nn.Parameter(torch.zeros(self.shape))
            self.log_std = nn.Parameter(torch.zeros(self.shape))

    def location(self, context: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        return (self.mean, self.log_std) if self.learned else None


class ClassConditionalGaussian(_Gaussian):
    r"""One learned diagonal Gaussian per class, :math:`z \sim N(\mu_c, \sigma_c^2)`, standard normal at the start.

    The context holds the labels (B,), an integer dtype, 0..classes-1; ValueError or TypeError for anything else, on the
    CPU for labels out of range, too. Cost: one pass over the event in each direction.

    >>> import torch
    >>> from pyflowk.distributions import ClassConditionalGaussian
    >>> base = ClassConditionalGaussian((2,), classes=10)
    >>> base.log_prob(torch.zeros(3, 2), torch.tensor([0, 1, 9])).shape
    torch.Size([3])
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__(shape)
        require_counts("ClassConditionalGaussian", classes=classes)
        self.classes = classes
        self.mean = nn.Parameter(torch.zeros(classes, *self.shape))
        self.log_std = nn.Parameter(torch.zeros(classes, *self.shape))

    def location(self, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if context is None:
            raise ValueError("ClassConditionalGaussian expects class labels (B,) as context, got none")
        labels = check_labels(context)
        check_below("context", labels, self.classes, "labels")
        return self.mean[labels], self.log_std[labels]
