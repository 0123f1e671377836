"""normflows: https://github.com/VincentStimper/normalizing-flows."""

from __future__ import annotations

import normflows as nf
from torch import Tensor

from . import FlowPeer, Given, Move, Net, Peer, shifts_first_pairs


class Flow(FlowPeer):
    """Noise to data is its forward; halves are exchanged by its split mode, without a permutation."""

    def __init__(self, features: int, couplings: int) -> None:
        super().__init__()
        self.nets = [Net(features // 2, features) for _ in range(couplings)]
        modes = ["channel_inv" if i % 2 == 0 else "channel" for i in range(couplings)]
        flows = [nf.flows.AffineCouplingBlock(net, split_mode=mode) for net, mode in zip(self.nets, modes)]
        self.model = nf.NormalizingFlow(nf.distributions.DiagGaussian(features, trainable=False), flows[::-1])

    def log_prob(self, x: Tensor) -> Tensor:
        return self.model.log_prob(x)

    def sample(self, n: int) -> Tensor:
        return self.model.sample(n)[0]


class Normflows(Peer):
    name = "normflows"
    note = "AffineCouplingBlock, scale_map exp: no bound (less work than ours); its sampler computes log q as well"
    noise_to_data = True

    def rows(self, n: int) -> Tensor:
        return shifts_first_pairs(n)

    def coupling(self, channels: int, bound: str) -> tuple[Move, Move]:
        given = Given()
        block = nf.flows.AffineCouplingBlock(given)
        return given.wrap(block), given.wrap(block.inverse)

    def flow(self, features: int, couplings: int) -> FlowPeer:
        return Flow(features, couplings)


PEER = Normflows()
