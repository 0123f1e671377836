"""Packed weights of a MADE and their dense form: what torch's products take, and what its gradients come in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._router import FusedOp
from .made_layout import matrix_shapes, positions

__all__ = ["dense_layers", "dense_op", "packed_gradients", "packed_op"]

Layers = Sequence[tuple[Tensor, Tensor]]


def _dense(weights: Tensor, plan: Tensor, features: int, hidden: Sequence[int], params: int) -> tuple[Tensor]:
    shapes = matrix_shapes(features, hidden, params)
    parts = [weights[: sum(rows for rows, _ in shapes)]]
    for place, seen in positions(plan, shapes, params):
        parts.append(torch.where(seen, weights[torch.where(seen, place, 0)], 0).flatten())
    return (torch.cat(parts),)


def _packed(
    dense: Tensor, weights: Tensor, plan: Tensor, features: int, hidden: Sequence[int], params: int
) -> tuple[Tensor]:
    shapes, size = matrix_shapes(features, hidden, params), len(weights)
    units = sum(rows for rows, _ in shapes)
    places = [torch.arange(units, device=plan.device)]
    for place, seen in positions(plan, shapes, params):
        places.append(torch.where(seen, place, size).flatten())  # what is not seen falls into a place behind
    return (dense.new_zeros(size + 1).scatter(0, torch.cat(places), dense)[:size],)


def _numbers(features: int, hidden: Sequence[int], params: int) -> int:
    return sum(rows * (columns + 1) for rows, columns in matrix_shapes(features, hidden, params))


_CONFIG = "int features, int[] hidden, int params"

dense_op = FusedOp(
    "made_dense",
    f"(Tensor weights, Tensor plan, {_CONFIG}) -> Tensor",
    formula=_dense,
    fake=lambda weights, plan, *config: (weights.new_empty(_numbers(*config)),),
    shared=("weights", "plan"),
    indices=("plan",),
    expand_below=0,
)
packed_op = FusedOp(
    "made_packed",
    f"(Tensor dense, Tensor weights, Tensor plan, {_CONFIG}) -> Tensor",
    formula=_packed,
    fake=lambda dense, weights, *rest: (torch.empty_like(weights),),
    shared=("dense", "weights", "plan"),
    indices=("plan",),
    expand_below=0,
)


def dense_layers(
    weights: Tensor, plan: Tensor, features: int, hidden: Sequence[int], params: int
) -> list[tuple[Tensor, Tensor]]:
    """Return (masked weight, bias) of every layer, sorted by degree, the output rows last."""
    (dense,) = dense_op((weights, plan, features, tuple(hidden), params))
    shapes = matrix_shapes(features, hidden, params)
    biases, *matrices = dense.split([sum(r for r, _ in shapes), *(r * c for r, c in shapes)])
    by_layer = zip(matrices, shapes, biases.split([r for r, _ in shapes]), strict=True)
    return [(matrix.view(shape), bias) for matrix, shape, bias in by_layer]


def packed_gradients(
    gradients: Layers, weights: Tensor, plan: Tensor, features: int, hidden: Sequence[int], params: int
) -> Tensor:
    """Return the gradient of packed weights like these, from those of (weight, bias) of every layer."""
    dense = torch.cat([*(bias for _, bias in gradients), *(matrix.flatten() for matrix, _ in gradients)])
    return packed_op((dense, weights, plan, features, tuple(hidden), params))[0]
