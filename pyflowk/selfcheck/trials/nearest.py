"""How `nearest` is tried."""

from __future__ import annotations

from typing import Any

import torch

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int, targets: int = 130, size: int = 3) -> tuple[Any, ...]:
    """Whole numbers, whose products are exact in every precision."""
    return (2 * noise(rows, size)).round(), (2 * noise(targets, size)).round(), noise(targets).round()


TRIALS = {
    "nearest": Trial(
        [()], _inputs, (torch.float32, torch.float64), large=Large((), lambda rows: _inputs((), rows, 4096, 64))
    )
}
