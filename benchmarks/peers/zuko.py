"""zuko: https://github.com/probabilists/zuko."""

from __future__ import annotations

import math

import torch
import zuko
from torch import Tensor
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.transforms import CouplingTransform, DependentTransform, MonotonicAffineTransform

from . import WIDTH, FlowPeer, Given, Move, Peer, shifts_first_pairs


class Flow(FlowPeer):
    """Data to noise is its forward; its own networks, of the same sizes as ours."""

    def __init__(self, features: int, couplings: int) -> None:
        super().__init__()
        first = torch.arange(features) < features // 2
        masks = [first ^ (i % 2 == 0) for i in range(couplings)]  # true passes unchanged
        layers = [GeneralCouplingTransform(features, mask=m, hidden_features=(WIDTH, WIDTH)) for m in masks]
        self.nets = [layer.hyper for layer in layers]
        zeros, ones = torch.zeros(features), torch.ones(features)
        base = zuko.lazy.UnconditionalDistribution(zuko.distributions.DiagNormal, zeros, ones, buffer=True)
        self.model = zuko.lazy.Flow(layers, base)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.model().log_prob(x)

    def sample(self, n: int) -> Tensor:
        return self.model().sample((n,))


class Zuko(Peer):
    name = "zuko"
    note = "gathers by index; its own bound, r / (1 + |r / log 0.001|), cannot be switched off; vectors only"
    images = False

    def rows(self, n: int) -> Tensor:
        return shifts_first_pairs(n)

    def log_scale(self, raw: Tensor, bound: str = "none") -> Tensor:
        return raw / (1 + (raw / math.log(1e-3)).abs())

    def coupling(self, channels: int, bound: str) -> tuple[Move, Move]:
        given = Given()

        def meta(x: Tensor) -> DependentTransform:
            shift, scale = given(x).unflatten(-1, (-1, 2)).unbind(-1)
            return DependentTransform(MonotonicAffineTransform(shift, scale), 1)

        layer = CouplingTransform(meta, torch.arange(channels) < channels // 2)
        # its density pass calls call_and_ladj; of the inverse it offers the value and then asks for the log-det
        return given.wrap(layer.call_and_ladj), given.wrap(layer.inv.call_and_ladj)

    def flow(self, features: int, couplings: int) -> FlowPeer:
        return Flow(features, couplings)


PEER = Zuko()
