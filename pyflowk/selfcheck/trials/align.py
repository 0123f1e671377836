"""How `align` is tried: pairs of sequences of few symbols, which have many ties."""

from __future__ import annotations

from typing import Any

import torch

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int, size: int = 70) -> tuple[Any, ...]:
    x0, x1 = ((2 * noise(rows, n)).abs().long() % 4 for n in (size, size + 1))
    lengths0, lengths1 = (torch.arange(rows) * n % (size + 1) for n in (7, 11))
    return x0, x1, size - lengths0, size - lengths1, torch.arange(rows) * 2**40


TRIALS = {
    "align": Trial([()], _inputs, (torch.float32,), large=Large((), lambda rows: _inputs((), rows, 256), rows=33))
}
