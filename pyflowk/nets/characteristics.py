"""A network that tells what a process of flow and jumps does, of the answers that another one gives."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .._checks import require_counts
from ..ops.dtypes import state_dtype
from ..paths import Characteristics
from ..space import Ragged
from .context import Network
from .field import Field, as_field

__all__ = ["CharacteristicsField"]


class CharacteristicsField(Network):
    r"""The :class:`pyflowk.paths.Characteristics` that a network's answers mean: a drift, and jumps into bins.

    ``net(t, x, context=None)`` answers events x (B, C, \*rest) by (B, C A, \*rest), :class:`MLPField` and the networks
    of images with ``outputs`` do, channel by channel: with ``flow`` the drift, and with ``bins`` above 0 the logarithm
    of the intensity, then the logits of so many bins; A = ``answers(flow, bins)``. They are float32 or better. Raises
    ValueError for a network of nothing, and for answers of another shape. Cost: the network.

    >>> import torch
    >>> from pyflowk.nets import CharacteristicsField, MLPField
    >>> net = MLPField(2, 8, 1, outputs=2 * CharacteristicsField.answers(flow=True, bins=5))
    >>> found = CharacteristicsField(net, flow=True, bins=5)(torch.tensor(0.5), torch.ones(3, 2))
    >>> found.drift.shape, found.intensity.shape, found.landing.shape
    (torch.Size([3, 2]), torch.Size([3, 2]), torch.Size([3, 2, 5]))
    """

    def __init__(self, net: Field | Callable[..., Tensor], flow: bool = True, bins: int = 0) -> None:
        super().__init__()
        require_counts("CharacteristicsField", 0, bins=bins)
        if not flow and not bins:
            raise ValueError("CharacteristicsField expects a flow, or bins above 0 for jumps, or both; got neither")
        self.net, self.flow, self.bins = as_field(net), flow, bins
        self.takes_context = self.net.takes_context

    @staticmethod
    def answers(flow: bool, bins: int) -> int:
        """How many numbers a coordinate is told."""
        return flow + (bins + 1 if bins else 0)

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Characteristics:
        each = self.answers(self.flow, self.bins)
        told = self.net(t, x, context)
        if told.shape != (x.shape[0], each * x.shape[1], *x.shape[2:]):
            raise ValueError(
                f"net: expected {each} answers for each of {x.shape[1]} channels of {tuple(x.shape)}; got "
                f"{tuple(told.shape)}"
            )
        told = told.to(state_dtype(told)).unflatten(1, (x.shape[1], each))
        drift = told[:, :, 0] if self.flow else None
        if not self.bins:
            return Characteristics(drift)
        return Characteristics(drift, None, told[:, :, int(self.flow)], told[:, :, 1 + self.flow :].movedim(2, -1))

    def no_context(self) -> Tensor | Ragged:
        return self.net.no_context()

    def extra_repr(self) -> str:
        return f"flow={self.flow}, bins={self.bins}"
