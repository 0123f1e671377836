"""How `lipswish` is tried."""

from __future__ import annotations

import torch

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


TRIALS = {
    "lipswish": Trial(
        [()],
        lambda config, rows: (3 * noise(rows, 65), noise(1).abs()),
        (torch.float32, torch.float64),
        lambda config: 16.0,
        large=Large((), lambda rows: (3 * noise(rows, 2048), noise(1).abs())),
    )
}
