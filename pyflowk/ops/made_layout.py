"""Where the weights of a MADE lie when packed for its kernels: sorted by degree, without what the masks forbid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["MadeLayout"]

_BLOCK, _ROWS = 8, 6  # kMadeBlock and kMadeRows of csrc/math/made.h


class MadeLayout:
    r"""A layout says where the weights of a MADE lie when they are packed for the kernels.

    Args:
        degrees: of the hidden units, one sequence a layer, each in 0..D-1: a unit of degree m sees the first m
            coordinates and the units of the layer before up to degree m.
        order: the feature that is coordinate 0, 1, ...: a permutation of 0..D-1.
        params: parameters of a coordinate, 2 for an affine map, 1 for an additive one, `spline_params` for a spline;
            coordinate i's see the units of the last layer up to degree i.
        interleaved: the output layer's rows are the parameters of feature 0, of feature 1, ...; otherwise all first
            parameters, all second ones, ...

    Attributes:
        hidden: units a layer.
        plan: the numbers that the kernels read, int64.
        source: for :meth:`pack`, int64.

    Raises ValueError for an order that is no permutation or degrees out of range. Cost: one gather of the weights.

    >>> layout = MadeLayout([[1, 1]], order=[0, 1])
    >>> layers = [(torch.ones(2, 2), torch.zeros(2)), (torch.ones(4, 2), torch.zeros(4))]
    >>> layout.hidden, layout.pack(layers, layout.source).shape
    ((2,), torch.Size([24]))
    """

    def __init__(
        self, degrees: Sequence[Sequence[int]], order: Sequence[int], params: int = 2, interleaved: bool = False
    ) -> None:
        features = len(order)
        if features < 1 or sorted(order) != list(range(features)):
            raise ValueError(f"MadeLayout: order must be a permutation of 0..{features - 1}; got {list(order)[:20]}")
        for layer, of_layer in enumerate(degrees):
            if not of_layer or min(of_layer) < 0 or max(of_layer) >= features:
                raise ValueError(
                    f"MadeLayout: degrees of hidden layer {layer} must be numbers in 0..{features - 1}, at least one; "
                    f"got {list(of_layer)[:20]}"
                )
        self.hidden = tuple(len(of_layer) for of_layer in degrees)
        column_order = torch.tensor(list(order))
        sorts = [torch.tensor(list(of_layer)).argsort(stable=True) for of_layer in degrees]
        ends = torch.stack(
            [column_order] + [(torch.tensor(list(d))[:, None] <= torch.arange(features)).sum(0) for d in degrees]
        )
        offsets = torch.tensor([0, *self.hidden]).cumsum(0)
        shapes = matrix_shapes(features, self.hidden, params)
        starts, at = [], int(offsets[-1]) + features * params
        for first in range(0, features, _BLOCK):
            last = min(first + _BLOCK, features) - 1
            for layer, (rows_up_to, columns_up_to) in enumerate(_prefixes(ends, shapes, params)):
                rows = rows_up_to(last) - rows_up_to(first - 1)
                starts.append(at)
                at += -(-rows // _ROWS) * _ROWS * columns_up_to(last, layer)
        self.plan = torch.cat([ends.flatten(), offsets, torch.tensor(starts)])
        # every packed number's place among [0, biases, matrices]; zero where there is only padding
        rows = torch.arange(features * params)
        feature, which = column_order[rows // params], rows % params
        sorts.append(feature * params + which if interleaved else which * features + feature)
        columns = [column_order, *sorts[:-1]]
        source, place = torch.zeros(at, dtype=torch.int64), 1
        for offset, by in zip(offsets.tolist(), sorts, strict=True):
            source[offset : offset + len(by)] = place + by
            place += len(by)
        for (position, seen), by, column in zip(positions(self.plan, shapes, params), sorts, columns, strict=True):
            index = place + by[:, None] * len(column) + column
            source[position[seen]] = index[seen]
            place += len(by) * len(column)
        self.source, self.params, self.features = source, params, features

    @staticmethod
    def pack(layers: Sequence[tuple[Tensor, Tensor]], source: Tensor) -> Tensor:
        """Return the packed weights, from (weight, bias) of every hidden layer and the output layer; differentiable."""
        zero = layers[0][0].new_zeros(1)
        flat = torch.cat([zero, *(bias for _, bias in layers), *(weight.flatten() for weight, _ in layers)])
        return flat.index_select(0, source)


def plan_size(features: int, layers: int) -> int:
    """Count the numbers that the plan of a network has."""
    return (features + 1 - (-features // _BLOCK)) * (layers + 1)


def matrix_shapes(features: int, hidden: Sequence[int], params: int) -> list[tuple[int, int]]:
    """Return (rows, columns) of every layer's matrix."""
    return list(zip((*hidden, features * params), (features, *hidden), strict=True))


def _prefixes(ends: Tensor, shapes: Sequence[tuple[int, int]], params: int):  # type: ignore[no-untyped-def]
    """For every layer: how many rows there are up to a degree, and how many columns a row of that degree sees."""
    table = ends.tolist()

    def rows(layer: int):  # type: ignore[no-untyped-def]
        if layer == len(shapes) - 1:
            return lambda degree: (degree + 1) * params
        return lambda degree: table[layer + 1][degree] if degree >= 0 else 0

    def columns(degree: int, layer: int) -> int:
        return degree if layer == 0 else rows(layer - 1)(degree)

    return [(rows(layer), columns) for layer in range(len(shapes))]


def positions(plan: Tensor, shapes: Sequence[tuple[int, int]], params: int) -> list[tuple[Tensor, Tensor]]:
    """For every layer's matrix: where each element lies in the packed weights, and whether its row sees its column."""
    features, layers = shapes[0][1], len(shapes) - 1
    numbers = torch.arange(features, device=plan.device)
    output = params * (numbers + 1)
    ends = torch.cat([plan[features : features * (layers + 1)], output]).view(layers + 1, features)
    starts = plan[features * (layers + 1) + layers + 1 :].view(-1, layers + 1).t()
    # of every degree, by its block: rows before it, columns, and where its matrix begins
    block = numbers // _BLOCK
    last = (block * _BLOCK + _BLOCK - 1).clamp(max=features - 1)
    before = torch.cat([torch.zeros_like(ends[:, :1]), ends], 1)[:, block * _BLOCK]
    columns = torch.cat([last[None], ends[:-1, last]])
    table = torch.stack([before, columns, starts[:, block]])
    found, column_degrees = [], numbers + 1
    for layer, (rows, width) in enumerate(shapes):
        row = torch.arange(rows, device=plan.device)
        degrees = torch.searchsorted(ends[layer], row, right=True)
        first, depth, begin = table[:, layer, degrees]
        inside = row - first
        begin = begin + inside // _ROWS * _ROWS * depth + inside % _ROWS
        places = torch.arange(0, width * _ROWS, _ROWS, device=plan.device)
        found.append((begin[:, None] + places, column_degrees <= degrees[:, None]))
        column_degrees = degrees
    return found
