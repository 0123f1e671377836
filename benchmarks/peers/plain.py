"""What a user writes by hand in plain torch: halves by chunk and cat, or a mask multiplied in; eager and compiled."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from . import FlowPeer, Net

LIMIT = 2.0
LOG_2PI = math.log(2 * math.pi)


def log_scale(raw: Tensor, bound: str) -> Tensor:
    """The bounded log-scale."""
    return LIMIT * torch.tanh(raw / LIMIT) if bound == "tanh" else raw


def chunk_forward(x: Tensor, params: Tensor, bound: str) -> tuple[Tensor, Tensor]:
    """y = x e^s + t on the second half of dim 1; params are the raw scales, then the shifts."""
    still, moved = x.chunk(2, 1)
    raw, t = params.chunk(2, 1)
    s = log_scale(raw, bound)
    return torch.cat([still, moved * torch.exp(s) + t], 1), s.flatten(1).sum(1)


def chunk_inverse(y: Tensor, params: Tensor, bound: str) -> tuple[Tensor, Tensor]:
    """The way back."""
    still, moved = y.chunk(2, 1)
    raw, t = params.chunk(2, 1)
    s = log_scale(raw, bound)
    return torch.cat([still, (moved - t) * torch.exp(-s)], 1), -s.flatten(1).sum(1)


def chunk_inplace(x: Tensor, params: Tensor, bound: str) -> tuple[Tensor, Tensor]:
    """`chunk_forward` written over x."""
    raw, t = params.chunk(2, 1)
    s = log_scale(raw, bound)
    x.chunk(2, 1)[1].mul_(torch.exp(s)).add_(t)
    return x, s.flatten(1).sum(1)


def mask_params(params: Tensor) -> Tensor:
    """Chunked params (B, 2 C/2, ...) in the layout of the mask style, (B, 2 C, ...), anything where nothing moves."""
    raw, t = params.detach().chunk(2, 1)
    return torch.cat([torch.zeros_like(raw), raw, torch.zeros_like(t), t], 1)


def mask_of(x: Tensor) -> Tensor:
    """1 on the first half of dim 1, which passes unchanged; broadcasts over the rest."""
    mask = torch.zeros(1, x.shape[1], *[1] * (x.ndim - 2), dtype=x.dtype)
    mask[:, : x.shape[1] // 2] = 1
    return mask


def mask_forward(x: Tensor, params: Tensor, mask: Tensor, bound: str) -> tuple[Tensor, Tensor]:
    """`chunk_forward` in the style of the RealNVP paper; params as `mask_params` lays them out."""
    raw, t = params.chunk(2, 1)
    s = log_scale(raw, bound) * (1 - mask)
    return mask * x + (1 - mask) * (x * torch.exp(s) + t), s.flatten(1).sum(1)


def mask_inverse(y: Tensor, params: Tensor, mask: Tensor, bound: str) -> tuple[Tensor, Tensor]:
    """The way back."""
    raw, t = params.chunk(2, 1)
    s = log_scale(raw, bound) * (1 - mask)
    return mask * y + (1 - mask) * (y - t) * torch.exp(-s), -s.flatten(1).sum(1)


class LayeredFlow(FlowPeer):
    """RealNVP by hand, each coupling on its own: chunk, transform, cat."""

    def __init__(self, features: int, couplings: int, bound: str = "tanh") -> None:
        super().__init__()
        self.features, self.bound = features, bound
        self.layers = nn.ModuleList([Net(features // 2, features) for _ in range(couplings)])
        self.nets = list(self.layers)

    def log_prob(self, x: Tensor) -> Tensor:
        ladj = x.new_zeros(x.shape[0])
        for i, net in enumerate(self.layers):
            still, moved = x.chunk(2, 1)[:: 1 if i % 2 else -1]
            raw, t = net(still).chunk(2, 1)
            s = log_scale(raw, self.bound)
            x = torch.cat([still, moved * torch.exp(s) + t][:: 1 if i % 2 else -1], 1)
            ladj = ladj + s.sum(1)
        return ladj - 0.5 * x.square().sum(1) - 0.5 * self.features * LOG_2PI

    def sample(self, n: int) -> Tensor:
        x = torch.randn(n, self.features)
        for i, net in reversed(list(enumerate(self.layers))):
            still, moved = x.chunk(2, 1)[:: 1 if i % 2 else -1]
            raw, t = net(still).chunk(2, 1)
            x = torch.cat([still, (moved - t) * torch.exp(-log_scale(raw, self.bound))][:: 1 if i % 2 else -1], 1)
        return x


class HalvesFlow(LayeredFlow):
    """The same with the halves kept apart from end to end, which saves every cat: the best plain torch we know."""

    def log_prob(self, x: Tensor) -> Tensor:
        moved, still = x.chunk(2, 1)
        ladj = x.new_zeros(x.shape[0])
        for net in self.layers:
            raw, t = net(still).chunk(2, 1)
            s = log_scale(raw, self.bound)
            moved, still = still, moved * torch.exp(s) + t
            ladj = ladj + s.sum(1)
        return ladj - 0.5 * (moved.square().sum(1) + still.square().sum(1)) - 0.5 * self.features * LOG_2PI

    def sample(self, n: int) -> Tensor:
        first, second = torch.randn(n, self.features).chunk(2, 1)
        for net in reversed(self.layers):
            raw, t = net(first).chunk(2, 1)
            first, second = (second - t) * torch.exp(-log_scale(raw, self.bound)), first
        return torch.cat([first, second], 1)
