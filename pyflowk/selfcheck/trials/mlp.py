"""How `mlp` is tried."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from ...ops.mlp import MLP_ACTIVATIONS, MOST_HIDDEN
from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    widths = (33, *(64,) * (1 + config[0] % MOST_HIDDEN), 20)  # another number of layers for every activation
    return _of(widths, rows)


def _of(widths: tuple[int, ...], rows: int) -> tuple[Any, ...]:
    layers = [(noise(b, a) / a**0.5, noise(b)) for a, b in pairwise(widths)]
    return noise(rows, widths[0]), noise(rows, widths[1]), [t for layer in layers for t in layer]


#: in float64 the formula is its own truth: sums of 64 products a layer, in another order
TRIALS = {
    "mlp": Trial(
        [(code, True) for code in MLP_ACTIVATIONS.values()],
        _inputs,
        (torch.float32, torch.float64),
        lambda config: 64.0,
        large=Large((MLP_ACTIVATIONS["silu"], True), lambda rows: _of((64, 512, 512, 64), rows)),
    )
}
