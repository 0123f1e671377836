"""nflows: https://github.com/bayesiains/nflows."""

from __future__ import annotations

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow as NflowsFlow
from nflows.transforms import AffineCouplingTransform, CompositeTransform
from torch import Tensor

from . import FlowPeer, Given, Move, Net, Peer


def _mask(features: int, swap: bool) -> Tensor:
    second = torch.arange(features) >= features // 2
    return (second ^ swap).int()


class Flow(FlowPeer):
    """Data to noise is its forward."""

    def __init__(self, features: int, couplings: int) -> None:
        super().__init__()
        layers = [AffineCouplingTransform(_mask(features, i % 2 == 0), Net) for i in range(couplings)]
        self.nets = [layer.transform_net for layer in layers]
        self.model = NflowsFlow(CompositeTransform(layers), StandardNormal([features]))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.model.log_prob(x)

    def sample(self, n: int) -> Tensor:
        return self.model.sample(n)


class Nflows(Peer):
    name = "nflows"
    note = "gathers by index; its own bound, sigmoid(r + 2) + 0.001 and a log of it, cannot be switched off"

    def rows(self, n: int) -> Tensor:
        return torch.arange(2 * n).roll(n)

    def log_scale(self, raw: Tensor, bound: str = "none") -> Tensor:
        return torch.log(torch.sigmoid(raw + 2) + 1e-3)

    def coupling(self, channels: int, bound: str) -> tuple[Move, Move]:
        given = Given()
        layer = AffineCouplingTransform(_mask(channels, False), lambda *_: given)
        return given.wrap(layer), given.wrap(layer.inverse)

    def flow(self, features: int, couplings: int) -> FlowPeer:
        return Flow(features, couplings)


PEER = Nflows()
