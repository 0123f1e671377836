"""Which samples and which noise belong to a step: pure functions of the seed, so that a run can go on anywhere."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

_STRIDE = 1_000_003


def step_generator(seed: int, step: int, rank: int, device: torch.device) -> Generator:
    """The generator of one step of one process; nothing has to be saved to draw the same numbers again."""
    return Generator(device).manual_seed(((seed * _STRIDE + step) * _STRIDE + rank) % 2**63)


class Batches:
    """An endless stream of shuffled passes over `count` samples, cut into global batches.

    `batches(step)` gives the indices of this process: every `world`-th sample of global batch `step`, so that any
    number of processes sees the same global batches.

    >>> from pyflowk.training.batches import Batches
    >>> stream = Batches(count=3, batch_size=2, seed=0)
    >>> sorted(torch.cat([stream(0), stream(1), stream(2)]).tolist())
    [0, 0, 1, 1, 2, 2]
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if batch_size % world:
            raise ValueError(f"batch_size: expected a multiple of the {world} processes, got {batch_size}")
        self.count, self.batch_size, self.seed, self.rank, self.world = count, batch_size, seed, rank, world
        self._orders: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Tensor:
        start = step * self.batch_size
        epochs = range(start // self.count, (start + self.batch_size - 1) // self.count + 1)
        self._orders = {e: self._orders[e] if e in self._orders else self._order(e) for e in epochs}
        stream = torch.cat([self._orders[epoch] for epoch in epochs])
        offset = start - epochs[0] * self.count
        return stream[offset : offset + self.batch_size][self.rank :: self.world]

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(self.count, generator=Generator().manual_seed((self.seed * _STRIDE + epoch) % 2**63))
