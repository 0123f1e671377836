"""Independent distributions side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Generator, Tensor, nn

from .base import Distribution


class Joint(Distribution):
    r"""Several independent distributions at once, :math:`p(z) = \prod_i p_i(z_i)`: an event (D,) is theirs in a row.

    The events of each part are flattened, one behind the other; temperature and context are handed on. Raises TypeError
    for what is no Distribution, ValueError for none. Cost: that of its parts.

    >>> import torch
    >>> from pyflowk.distributions import DiagonalGaussian, Joint, UniformSphere
    >>> Joint([UniformSphere((3,)), DiagonalGaussian((1,))]).log_prob(torch.tensor([[0.0, 0.0, 1.0, 0.0]]))
    tensor([-3.4500])
    """

    def __init__(self, parts: Sequence[Distribution]) -> None:
        for part in parts:
            if not isinstance(part, Distribution):
                raise TypeError(f"Joint expects distributions, got {part!r}")
        if not parts:
            raise ValueError("Joint expects at least one distribution, got none")
        super().__init__((sum(part.dims for part in parts),))
        self.parts = nn.ModuleList(parts)
        self.reparameterised = all(part.reparameterised for part in parts)

    def anchor_to(self, weights: Iterable[Tensor]) -> None:
        weights = list(weights)
        super().anchor_to(weights)
        for part in self._parts():
            part.anchor_to(weights)

    def _log_prob(self, z: Tensor, context: Tensor | None, temperature: float) -> Tensor:
        pieces = z.split([part.dims for part in self._parts()], 1)
        return torch.stack([
            part.log_prob(piece.reshape(z.shape[0], *part.shape), context, temperature)
            for part, piece in zip(self._parts(), pieces, strict=True)
        ]).sum(0)  # fmt: skip

    def _sample(self, n: int, context: Tensor | None, generator: Generator | None, temperature: float) -> Tensor:
        draws = [part.sample(n, context, generator, temperature) for part in self._parts()]
        return torch.cat([draw.reshape(n, part.dims) for draw, part in zip(draws, self._parts(), strict=True)], 1)

    def _parts(self) -> list[Distribution]:
        return [part for part in self.parts if isinstance(part, Distribution)]
