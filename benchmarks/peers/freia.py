"""FrEIA: https://github.com/vislearn/FrEIA."""

from __future__ import annotations

import math

import torch
from FrEIA.framework import SequenceINN
from FrEIA.modules import AffineCouplingOneSided, GLOWCouplingBlock
from torch import Tensor

from . import FlowPeer, Given, Move, Net, Peer


def _half_tanh(u: Tensor) -> Tensor:
    return torch.tanh(u / 2.0)


class Flow(FlowPeer):
    """Data to noise is its forward; one of its blocks is two of our couplings."""

    def __init__(self, features: int, couplings: int) -> None:
        super().__init__()
        if couplings % 2:
            raise ValueError(f"couplings: FrEIA's blocks hold two, expected an even number, got {couplings}")
        self.features = features
        self.model = SequenceINN(features)
        for _ in range(couplings // 2):
            self.model.append(GLOWCouplingBlock, subnet_constructor=Net, clamp=2.0, clamp_activation=_half_tanh)
        self.nets = [net for block in self.model for net in (block.subnet2, block.subnet1)]

    def log_prob(self, x: Tensor) -> Tensor:
        z, ladj = self.model(x)
        return ladj - 0.5 * z.square().sum(1) - 0.5 * self.features * math.log(2 * math.pi)

    def sample(self, n: int) -> Tensor:
        return self.model(torch.randn(n, self.features), rev=True)[0]


class Freia(Peer):
    name = "FrEIA"
    note = "AffineCouplingOneSided, bound by a function we give it; Gaussian log-density added by us"
    bounds = ("none", "tanh")

    def coupling(self, channels: int, bound: str) -> tuple[Move, Move]:
        given = Given()
        clamp, activation = (2.0, _half_tanh) if bound == "tanh" else (1.0, lambda u: u)
        # only the number of dimensions and the channels of dims_in matter; ladj sums over what follows dim 0
        options = {"subnet_constructor": lambda *_: given, "clamp": clamp, "clamp_activation": activation}
        dims = {2: [(channels,)], 4: [(channels, 1, 1)]}
        layers = {n: AffineCouplingOneSided(shape, split_len=channels // 2, **options) for n, shape in dims.items()}

        def run(x: Tensor, rev: bool) -> tuple[Tensor, Tensor]:
            (y,), ladj = layers[x.ndim]((x,), rev=rev)
            return y, ladj

        return given.wrap(lambda x: run(x, False)), given.wrap(lambda x: run(x, True))

    def flow(self, features: int, couplings: int) -> FlowPeer:
        return Flow(features, couplings)


PEER = Freia()
