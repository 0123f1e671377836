"""How `discrete_loss` is tried: the bound and cross-entropy, with a mask and without."""

from __future__ import annotations

from typing import Any

import torch

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int, places: int = 5, size: int = 37) -> tuple[Any, ...]:
    now = torch.arange(rows * places).reshape(rows, places) % size
    data = now * 7 % (size - 1)
    data[:, 1::4] = -1
    if config[1] >= 0:
        now[:, ::2] = config[1]
    return noise(rows, places, size), now, data


TRIALS = {
    "discrete_loss": Trial(
        [(True, -1), (True, 36), (False, -1)],
        _inputs,
        large=Large((True, -1), lambda rows: _inputs((True, -1), rows, 64, 600)),
    )
}
