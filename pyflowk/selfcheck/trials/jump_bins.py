"""How `jump_bins` is tried."""

from __future__ import annotations

from typing import Any

import torch

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int, *event: int) -> tuple[Any, ...]:
    """Times up to the end, where jumps land on the data."""
    x0, x1 = noise(rows, *event), noise(rows, *event).flip(0)
    return x0, x1, torch.linspace(0, 1, rows, dtype=torch.float64)


TRIALS = {
    "jump_bins": Trial(
        [(-4.0, 4.0, 40), (-1.5, 2.0, 1)],
        lambda config, rows: _inputs(config, rows, 3, 2),
        (torch.float32, torch.float64),
        lambda config: 8.0,  # a bin's mass is a difference of larger ones
        large=Large((-4.0, 4.0, 256), lambda rows: _inputs((), rows, 96), 16),
    )
}
