"""Pairs of noise and data that are known already: a flow has made them, or makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor


@dataclass(frozen=True, eq=False)
class Given:
    r"""The pairing of rows that belong together as they are, whatever noise was drawn: ``x0`` and ``x1`` (B, \*event).

    The batch's context stays with its rows. It is how reflow learns from the noise and the data of one trajectory, and
    translation from pairs that the data bring. Cost: none. Liu et al., 2023, arXiv:2209.03003.

    >>> import torch
    >>> from pyflowk.paths import Given
    >>> Given(torch.zeros(1), torch.ones(1))(torch.rand(1), torch.ones(1))
    (tensor([0.]), tensor([1.]), None)
    """

    x0: Tensor
    x1: Tensor

    def __call__(
        self, x0: Tensor, x1: Tensor, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.x0, self.x1, context


@dataclass(frozen=True, eq=False)
class FlowNoise:
    r"""The pairing of events with the noise that an invertible flow gives them: x0 = ``flow(x1, context)``.

    ``flow`` is a trained :class:`pyflowk.transforms.Transform`, of whose (z, ladj) the first is taken, or a function of
    (x1, context) that gives latents like x1; they are detached. Whether they are standard normal is for the user to
    see: the velocity starts from their distribution, and samples from that of the source. Cost: one pass of the flow.
    Normalizing flow matching, 2026, arXiv:2603.09014.

    >>> import torch
    >>> from pyflowk.paths import FlowNoise
    >>> FlowNoise(lambda x, context: (x - 1) / 2)(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]))[0].flatten()
    tensor([0., 1.])
    """

    flow: Callable[..., Tensor | tuple[Tensor, Tensor]]

    def __call__(
        self, x0: Tensor, x1: Tensor, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        found = self.flow(x1, context)
        z = found[0] if isinstance(found, tuple) else found
        if z.shape != x1.shape:
            raise ValueError(f"expected the flow's latents to have the shape {tuple(x1.shape)}, got {tuple(z.shape)}")
        return z.detach(), x1, context
