"""The network of a MADE in plain torch: one way through it, and one way back.

Coordinates and units stand in the order of the plan, the output rows last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .activations import named

__all__ = ["MADE_ACTIVATIONS", "RESIDUAL", "activations", "pull", "run", "slopes"]

#: name -> code of the activation in `csrc/math/activation.h`.
MADE_ACTIVATIONS = {"relu": 0, "tanh": 1, "silu": 2, "elu": 3, "leaky_relu": 4, "selu": 5}
RESIDUAL = {False: 0, True: 1, "linear": 2, "bare": 3}  # `Residual` of csrc/math/made.h

Layers = Sequence[tuple[Tensor, Tensor]]  # (weight, bias)


def run(x: Tensor, layers: Layers, shift: Tensor, activation: int, residual: int) -> list[Tensor]:
    """Return what every layer has before its activation."""
    pres: list[Tensor] = []
    act = named(MADE_ACTIVATIONS, activation)
    h, at = x, 0
    for layer, (weight, bias) in enumerate(layers):
        pre = torch.nn.functional.linear(h, weight, bias)
        if layer == len(layers) - 1:
            return [*pres, pre]
        if at < shift.shape[1]:
            pre = pre + shift[:, at : at + pre.shape[1]]
            at += pre.shape[1]
        if residual and layer and layer % 2 == 0:
            pre = pre + pres[layer - 2]
        pres.append(pre)
        h = pre if _linear(layer, len(layers), residual) else act.value(pre)
    raise AssertionError("there is always an output layer")


def activations(pres: Sequence[Tensor], activation: int, residual: int) -> list[Tensor]:
    """Return what every hidden layer goes on with."""
    act = named(MADE_ACTIVATIONS, activation)
    return [p if _linear(i, len(pres), residual) else act.value(p) for i, p in enumerate(pres[:-1])]


def slopes(pres: Sequence[Tensor], activation: int, residual: int) -> list[Tensor]:
    """Return the derivatives of :func:`activations`."""
    act = named(MADE_ACTIVATIONS, activation)
    return [torch.ones_like(p) if _linear(i, len(pres), residual) else act.slope(p) for i, p in enumerate(pres[:-1])]


def pull(douts: Tensor, slopes: Sequence[Tensor], layers: Layers, residual: int) -> tuple[list[Tensor], Tensor]:
    """Return the gradients of every layer before its activation and of x, from that of the output rows."""
    deltas = [douts]
    for layer in range(len(layers) - 2, -1, -1):
        delta = deltas[0] @ layers[layer + 1][0] * slopes[layer]
        if residual and layer % 2 == 0 and layer + 2 < len(layers) - 1:
            delta = delta + deltas[1]
        deltas.insert(0, delta)
    return deltas, deltas[0] @ layers[0][0]


def _linear(layer: int, layers: int, residual: int) -> bool:
    """Whether this hidden layer of so many, the output layer among them, goes on as it is."""
    if residual == RESIDUAL["bare"]:
        return layer % 2 == 0
    return residual == RESIDUAL["linear"] and layer == layers - 2
