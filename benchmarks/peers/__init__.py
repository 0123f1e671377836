"""Rivals behind one face: an affine coupling with its parameters given, and a RealNVP with given networks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

WIDTH = 128
PACKAGES = ("normflows", "nflows", "zuko", "freia")

Move = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Net(nn.Sequential):
    """The conditioner everybody uses: two hidden layers of ReLU; a context is accepted and ignored."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(
            nn.Linear(in_features, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, out_features)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(x)


class Given(nn.Module):
    """Stands where a package wants its network and hands out what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.params: list[Tensor] = []

    def forward(self, *_: object) -> Tensor:
        return self.params[0]

    def wrap(self, function: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Move:
        """`function(x)` as a function of x and the network's output."""

        def coupling(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
            self.params[:] = [params]
            return function(x)

        return coupling


class FlowPeer(nn.Module):
    """A RealNVP: halves take turns, the first half moves first; standard normal base.

    `nets` are in the order in which data passes them.
    """

    nets: list[nn.Module]

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, D) -> (B,) nats."""
        raise NotImplementedError

    def sample(self, n: int) -> Tensor:
        """n -> (n, D)."""
        raise NotImplementedError


class Peer:
    """One rival. `note` says what its time includes that others' does not."""

    name: ClassVar[str]
    note: ClassVar[str]
    bounds: ClassVar[tuple[str, ...]] = ("none",)  # the contests it takes part in
    images: ClassVar[bool] = True
    noise_to_data: ClassVar[bool] = False  # whether its flow's couplings run forward when it samples

    def rows(self, n: int) -> Tensor:
        """Where its network's 2 n outputs are in our layout: n log-scales, then n shifts."""
        return torch.arange(2 * n)

    def log_scale(self, raw: Tensor, bound: str = "none") -> Tensor:
        """Its log-scale of the network's output."""
        return 2.0 * torch.tanh(raw / 2.0) if bound == "tanh" else raw

    def coupling(self, channels: int, bound: str) -> tuple[Move, Move]:
        """(forward, inverse) on the second half of dim 1, each (x, params in its own layout) -> (y, ladj)."""
        raise NotImplementedError

    def flow(self, features: int, couplings: int) -> FlowPeer:
        """RealNVP with `Net` in every coupling."""
        raise NotImplementedError


def shifts_first_pairs(n: int) -> Tensor:
    """Rows of the layout t0 r0 t1 r1 ... in ours."""
    return torch.stack([torch.arange(n, 2 * n), torch.arange(n)], 1).flatten()


def load() -> tuple[list[Peer], dict[str, str]]:
    """The peers that can be imported, and why the others cannot."""
    peers: list[Peer] = []
    missing: dict[str, str] = {}
    for package in PACKAGES:
        try:
            peers.append(importlib.import_module(f"{__name__}.{package}").PEER)
        except ImportError as error:
            missing[package] = str(error)
    return peers, missing
