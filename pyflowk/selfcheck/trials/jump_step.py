"""How `jump_step` is tried: with a mask, with noise and a law that is cut, by rates."""

from __future__ import annotations

from typing import Any

import torch

from ..trial import Large, Trial

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int, places: int = 5, size: int = 37) -> tuple[Any, ...]:
    """Logits whose law lies a third on each of three symbols, so that rounding moves no token to another."""
    x = torch.arange(rows * places).reshape(rows, places) % size
    x[:, ::2] = max(config[1], 0)
    chosen = torch.arange(size) % (size // 3) == 1
    logits = torch.where(chosen, 0.0, -40.0).double().expand(rows, places, size)
    numbers = (torch.full((rows, 1), value, dtype=torch.float64) for value in (0.6, 0.0 if config[2] else 0.3, 0.0))
    return logits, x, torch.arange(rows) * 2**40, *numbers


_MASK = (0, 36, False, 1.0, 0, 1.0)
TRIALS = {
    "jump_step": Trial(
        [_MASK, (1, -1, False, 0.7, 30, 0.9), (2, -1, True, 1.0, 0, 1.0), (3, 37, False, 0.0, 0, 1.0)],
        _inputs,
        (torch.float32, torch.float64),
        large=Large(_MASK, lambda rows: _inputs(_MASK, rows, 64, 600)),
    )
}
