"""A toy set of token sequences: a Markov chain of four symbols, 1 to 12 of them, and its entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyflowk.datasets import Dataset
from pyflowk.space import Context, Ragged, Space

SYMBOLS, LONGEST, STOP = 4, 12, 0.2
START = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.05, 0.05, 0.2, 0.7]], dtype=torch.float64)
"""The first symbol, by class."""
STEPS = torch.tensor(
    [[0.1, 0.7, 0.1, 0.1], [0.05, 0.1, 0.8, 0.05], [0.1, 0.1, 0.1, 0.7], [0.6, 0.2, 0.1, 0.1]], dtype=torch.float64
)
"""The next symbol, by the one before."""


def draw(count: int, generator: torch.Generator) -> tuple[Ragged, Tensor]:
    """Sequences and their classes: after each symbol one in five stops, after the twelfth all."""
    classes = torch.randint(2, (count,), generator=generator)
    now = START[classes].multinomial(1, generator=generator).flatten()
    columns = [now]
    for _ in range(LONGEST - 1):
        now = STEPS[now].multinomial(1, generator=generator).flatten()
        columns.append(now)
    goes_on = torch.rand(count, LONGEST - 1, generator=generator) >= STOP
    lengths = 1 + goes_on.long().cumprod(1).sum(1)
    return Ragged(torch.stack(columns, 1), lengths), classes


def entropy() -> float:
    """Nats of a sequence whose class is not known, exactly: of the first symbol, of the next ones, of stopping."""
    at = START.mean(0)
    total, alive = _nats(at), 1.0
    for _ in range(LONGEST - 1):
        stop = torch.tensor([STOP, 1 - STOP], dtype=torch.float64)
        total += alive * _nats(stop)
        alive *= 1 - STOP
        total += alive * sum(p * _nats(row) for p, row in zip(at.tolist(), STEPS))
        at = at @ STEPS
    return total


def _nats(p: Tensor) -> float:
    return -math.fsum(q * math.log(q) for q in p.tolist())


def token_data(seed: int = 0, *, labels: bool = False) -> Dataset:
    """1000 / 200 / 200 sequences; with labels also their classes."""
    generator = torch.Generator().manual_seed(seed)
    parts, classes = zip(*(draw(n, generator) for n in (1000, 200, 200)), strict=True)
    space = Space((LONGEST,), symbols=SYMBOLS, variable=True, context=Context("labels", 2) if labels else None)
    return Dataset("tokens", space, *parts, *(classes if labels else ()), entropy=None if labels else entropy())
