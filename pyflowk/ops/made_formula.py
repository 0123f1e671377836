"""MADE with an elementwise map in plain torch: both directions and their gradients, the reference of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .activations import named
from .affine_coupling import ADDITIVE, BOUNDS, _slope, log_scale
from .made_layout import matrix_shapes, positions
from .masks import MASKS
from .rq_spline_formula import free_slopes, spline_backward_formula, spline_formula

__all__ = [
    "MADE_ACTIVATIONS",
    "MADE_BOUNDS",
    "RESIDUAL",
    "SPLINE",
    "forward_backward_formula",
    "forward_formula",
    "inverse_backward_formula",
    "inverse_formula",
]  # fmt: skip

#: name -> code of the activation in `csrc/math/activation.h`.
MADE_ACTIVATIONS = {"relu": 0, "tanh": 1, "silu": 2, "elu": 3, "leaky_relu": 4, "selu": 5}
#: name -> code of the bound in `csrc/math/affine.h`: those of couplings, and those of flows trained elsewhere.
MADE_BOUNDS = {"additive": ADDITIVE, **BOUNDS, "softclip": 4, "softplus": 5, "floored_sigmoid": 6}
RESIDUAL = {False: 0, True: 1, "linear": 2, "bare": 3}  # `Residual` of csrc/math/made.h

#: a map's code is that of its bound, or, of a spline, this and that of its tails.
SPLINE = len(MADE_BOUNDS)


# ---- the network ----------------------------------------------------------------------------------------------------


def _dense(weights: Tensor, plan: Tensor, shapes: Sequence[tuple[int, int]], params: int) -> list[tuple[Tensor, ...]]:
    """(masked weight, bias) of every layer, sorted by degree."""
    layers: list[tuple[Tensor, ...]] = []
    at = 0
    for (position, seen), (rows, _) in zip(positions(plan, shapes, params), shapes, strict=True):
        matrix = torch.where(seen, weights[torch.where(seen, position, 0)], 0)
        layers.append((matrix, weights[at : at + rows]))
        at += rows
    return layers


def _run(x: Tensor, layers: list[tuple[Tensor, ...]], shift: Tensor, activation: int, residual: int) -> list[Tensor]:
    """What every layer has before its activation, the output rows last; x sorted into coordinates."""
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
        h = pre if _linear(layer, layers, residual) else act.value(pre)
    raise AssertionError("there is always an output layer")


def _pull(
    douts: Tensor, pres: list[Tensor], layers: list[tuple[Tensor, ...]], activation: int, residual: int
) -> tuple[list[Tensor], Tensor]:
    """The gradients of every layer before its activation and of x, from that of the output rows."""
    act, deltas = named(MADE_ACTIVATIONS, activation), [douts]
    for layer in range(len(layers) - 2, -1, -1):
        delta = deltas[0] @ layers[layer + 1][0]
        if not _linear(layer, layers, residual):
            delta = delta * act.slope(pres[layer])
        if residual and layer % 2 == 0 and layer + 2 < len(layers) - 1:
            delta = delta + deltas[1]
        deltas.insert(0, delta)
    return deltas, deltas[0] @ layers[0][0]


def _linear(layer: int, layers: list[tuple[Tensor, ...]], residual: int) -> bool:
    """Whether this hidden layer goes on as it is."""
    if residual == RESIDUAL["bare"]:
        return layer % 2 == 0
    return residual == RESIDUAL["linear"] and layer == len(layers) - 2


# ---- the scale -------------------------------------------------------------------------------------------------------


def _split(params: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    return (torch.zeros_like(params), params) if bound == ADDITIVE else (params[:, 0::2], params[:, 1::2])


def _scaled(raw: Tensor, bound: int, limit: float) -> Tensor:
    if bound == MADE_BOUNDS["softclip"]:
        return raw / (1 + (raw / limit).abs())
    if bound == MADE_BOUNDS["softplus"]:
        return torch.log(torch.nn.functional.softplus(raw) + limit)
    if bound == MADE_BOUNDS["floored_sigmoid"]:
        return torch.log(torch.sigmoid(raw + 2) + limit)
    return raw if bound == ADDITIVE else log_scale(raw, bound, limit)


def _scaled_slope(raw: Tensor, bound: int, limit: float) -> Tensor:
    if bound == MADE_BOUNDS["softclip"]:
        return 1 / (1 + (raw / limit).abs()) ** 2
    if bound == MADE_BOUNDS["softplus"]:
        return torch.sigmoid(raw) / (torch.nn.functional.softplus(raw) + limit)
    if bound == MADE_BOUNDS["floored_sigmoid"]:
        gate = torch.sigmoid(raw + 2)
        return gate * torch.sigmoid(-2 - raw) / (gate + limit)
    return _slope(raw, bound, limit)


# ---- the map, and the op --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Map:
    """What moves the coordinates; params are (B, P D), those of coordinate 0, of coordinate 1, ..."""

    code: int
    bins: int
    numbers: Sequence[float]  # limit, or low, high, min_width, min_height, min_slope, softclip

    @property
    def params(self) -> int:
        if self.code >= SPLINE:
            return 2 * self.bins + free_slopes(self.bins, self.code - SPLINE)
        return 1 if self.code == ADDITIVE else 2

    def move(self, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        if self.code >= SPLINE:
            return spline_formula(x, params, *self._spline_config(inverse))
        raw, t = _split(params, self.code)
        s = _scaled(raw, self.code, *self.numbers)
        return ((x - t) * torch.exp(-s), -s.sum(1)) if inverse else (x * torch.exp(s) + t, s.sum(1))

    def gradient(self, x: Tensor, params: Tensor, dy: Tensor, dladj: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Return the gradients of what went in and of params, from the data side x."""
        if self.code >= SPLINE:
            return spline_backward_formula(x, x, params, dy, dladj, *self._spline_config(inverse))
        raw = _split(params, self.code)[0]
        s = _scaled(raw, self.code, *self.numbers)
        dx = dy * torch.exp(-s if inverse else s)
        ds = -dy * x - dladj[:, None] if inverse else dx * x + dladj[:, None]
        dt = -dx if inverse else dy
        if self.code == ADDITIVE:
            return dx, dt
        return dx, torch.stack([ds * _scaled_slope(raw, self.code, *self.numbers), dt], 2).flatten(1)

    def _spline_config(self, inverse: bool) -> tuple[Any, ...]:
        return MASKS["all"], self.bins, self.code - SPLINE, *self.numbers, True, inverse


def _prepare(
    x: Tensor, weights: Tensor, plan: Tensor, hidden: Sequence[int], map: _Map
) -> tuple[Tensor, list[tuple[int, int]], list[tuple[Tensor, ...]]]:
    """(order, shapes, dense layers) of a call."""
    shapes = matrix_shapes(x.shape[1], hidden, map.params)
    return plan[: x.shape[1]], shapes, _dense(weights.to(x.dtype), plan, shapes, map.params)


def forward_formula(
    x: Tensor, weights: Tensor, shift: Tensor, plan: Tensor, hidden: Sequence[int], activation: int, residual: int,
    *map: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    of = _Map(*map)
    order, _, layers = _prepare(x, weights, plan, hidden, of)
    x = x[:, order]
    z, ladj = of.move(x, _run(x, layers, shift, activation, residual)[-1], False)
    return z[:, order.argsort()], ladj


def inverse_formula(
    z: Tensor, weights: Tensor, shift: Tensor, plan: Tensor, hidden: Sequence[int], activation: int, residual: int,
    *map: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Pass after pass of the whole network, each of which makes one more coordinate right: the kernel's oracle."""
    of = _Map(*map)
    order, _, layers = _prepare(z, weights, plan, hidden, of)
    z = z[:, order]
    x, columns, total = torch.zeros_like(z), torch.arange(z.shape[1], device=z.device), z.new_zeros(z.shape[:1])
    for i in range(z.shape[1]):
        params = _run(x, layers, shift, activation, residual)[-1][:, i * of.params : (i + 1) * of.params]
        value, ladj = of.move(z[:, i : i + 1], params, True)
        x = torch.where(columns == i, value, x)
        total = total + ladj
    return x[:, order.argsort()], total


def _backward(
    inverse: bool, x: Tensor, weights: Tensor, shift: Tensor, plan: Tensor, dy: Tensor, dladj: Tensor,
    hidden: Sequence[int], activation: int, residual: int, *map: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    of = _Map(*map)
    order, shapes, layers = _prepare(x, weights, plan, hidden, of)
    x, dy = x[:, order], dy[:, order]
    pres = _run(x, layers, shift, activation, residual)
    g = dy
    for _ in range(x.shape[1] if inverse else 0):  # triangular: one sweep of the kernel, D iterations here
        dparams = of.gradient(x, pres[-1], g, dladj, inverse)[1]
        g = dy + _pull(dparams, pres, layers, activation, residual)[1]
    dx, dparams = of.gradient(x, pres[-1], g, dladj, inverse)
    deltas, through = _pull(dparams, pres, layers, activation, residual)
    dx = dx if inverse else dx + through
    act = named(MADE_ACTIVATIONS, activation)
    inputs = [x, *(p if _linear(i, layers, residual) else act.value(p) for i, p in enumerate(pres[:-1]))]
    dweights = [torch.cat([delta.sum(0) for delta in deltas])]
    places, values, size = [], [], weights.shape[0]
    for (position, seen), delta, h in zip(positions(plan, shapes, of.params), deltas, inputs, strict=True):
        places.append(torch.where(seen, position, size).flatten())  # what is not seen falls into a place of its own
        values.append((delta.t() @ h).flatten())
    matrices = x.new_zeros(size + 1).scatter(0, torch.cat(places), torch.cat(values))
    dweights.append(matrices[dweights[0].shape[0] : size])
    return (
        dx[:, order.argsort()],
        torch.cat(dweights).to(weights.dtype),
        torch.cat(deltas[:-1], 1)[:, : shift.shape[1]] if shift.shape[1] else torch.zeros_like(shift),
    )


def forward_backward_formula(*args: object) -> tuple[Tensor, Tensor, Tensor]:
    return _backward(False, *args)  # type: ignore[arg-type]


def inverse_backward_formula(*args: object) -> tuple[Tensor, Tensor, Tensor]:
    """With g = J^-T (dL/dx + dladj grad ladj), the gradients are g and the network's own at g (implicit function)."""
    return _backward(True, *args)  # type: ignore[arg-type]
