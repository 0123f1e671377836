"""How `nearest` is tried."""

from __future__ import annotations

from typing import Any

import torch

from ..trial import Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    """Whole numbers, whose products are exact in every precision."""
    return (2 * noise(rows, 3)).round(), (2 * noise(130, 3)).round(), noise(130).round()


TRIALS = {"nearest": Trial([()], _inputs, (torch.float32, torch.float64))}
