"""Random Fourier features: a perceptron that learns fine structure."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._checks import require_counts, require_numbers
from ..space import Ragged
from .field import Field

SPREAD = 32
"""How many times the largest deviation of frequencies is the smallest."""


class FourierField(Field):
    r"""A field of vectors (B, D) whose network sees sines and cosines of them, too.

    ``make(n)`` makes the network, a :class:`Field` of n = D + 2 F numbers, such as an :class:`MLPField`: it sees
    :math:`(x, \sin B x, \cos B x)` with F fixed frequencies, the rows of B, drawn when the field is made: normal, with
    deviations from ``scale`` to a 32nd of it, even in their logarithm. Its first D answers are the field. Perceptrons
    learn smooth functions first: with frequencies they follow structure of size 1 / scale within few steps. Raises
    ValueError or TypeError for numbers that cannot be. Cost: the network, and a product with B. Tancik et al., 2020,
    arXiv:2006.10739.

    >>> import torch
    >>> from pyflowk.nets import FourierField, MLPField
    >>> FourierField(3, 8, 4.0, lambda n: MLPField(n, width=16))(torch.tensor(0.5), torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """

    frequencies: Tensor

    def __init__(self, features: int, count: int, scale: float, make: Callable[[int], Field]) -> None:
        super().__init__()
        require_counts("FourierField", features=features, count=count)
        require_numbers("FourierField", scale=scale)
        self.features = features
        deviations = scale * torch.linspace(0, -math.log(SPREAD), count).exp()
        self.register_buffer("frequencies", deviations[:, None] * torch.randn(count, features))
        self.net = make(features + 2 * count)
        self.takes_context = self.net.takes_context

    def no_context(self) -> Tensor | Ragged:
        return self.net.no_context()

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        phase = x @ self.frequencies.T
        return self.net(t, torch.cat((x, phase.sin(), phase.cos()), 1), context)[:, : self.features]

    def with_tangents(
        self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        phase, moved = x @ self.frequencies.T, tangents @ self.frequencies.T
        sine, cosine = phase.sin(), phase.cos()
        seen = torch.cat((x, sine, cosine), 1)
        pushed = torch.cat((tangents, moved * cosine.unsqueeze(1), -moved * sine.unsqueeze(1)), 2)
        value, images = self.net.with_tangents(t, seen, pushed, context)
        return value[:, : self.features], images[:, :, : self.features]
