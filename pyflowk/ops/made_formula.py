"""MADE with an elementwise map in plain torch: both directions and their gradients, the reference of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .affine_coupling import ADDITIVE, BOUNDS, _slope, log_scale
from .made_dense import dense_layers, packed_gradients
from .made_network import activations, pull, run, slopes
from .made_solve import made_solve
from .masks import MASKS
from .rq_spline import spline_backward_op, spline_op
from .rq_spline_formula import free_slopes

__all__ = [
    "MADE_BOUNDS",
    "SPLINE",
    "forward_backward_formula",
    "forward_formula",
    "inverse_backward_formula",
    "inverse_formula",
]  # fmt: skip

#: name -> code of the bound in `csrc/math/affine.h`: those of couplings, and those of flows trained elsewhere.
MADE_BOUNDS = {"additive": ADDITIVE, **BOUNDS, "softclip": 4, "softplus": 5, "floored_sigmoid": 6}
#: a map's code is that of its bound, or, of a spline, this and that of its tails.
SPLINE = len(MADE_BOUNDS)


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
            return spline_op((x, params, *self._spline_config(inverse)))
        raw, t = _split(params, self.code)
        s = _scaled(raw, self.code, *self.numbers)
        return ((x - t) * torch.exp(-s), -s.sum(1)) if inverse else (x * torch.exp(s) + t, s.sum(1))

    def gradient(self, x: Tensor, params: Tensor, dy: Tensor, dladj: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Return the gradients of what went in and of params, from the data side x."""
        if self.code >= SPLINE:
            return spline_backward_op((x, x, params, dy, dladj, *self._spline_config(inverse)))
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
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """(order, dense layers) of a call."""
    return plan[: x.shape[1]], dense_layers(weights.to(x.dtype), plan, x.shape[1], hidden, map.params)


def forward_formula(
    x: Tensor, weights: Tensor, shift: Tensor, plan: Tensor, hidden: Sequence[int], activation: int, residual: int,
    *map: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    of = _Map(*map)
    order, layers = _prepare(x, weights, plan, hidden, of)
    x = x[:, order]
    z, ladj = of.move(x, run(x, layers, shift, activation, residual)[-1], False)
    return z[:, order.argsort()], ladj


def inverse_formula(
    z: Tensor, weights: Tensor, shift: Tensor, plan: Tensor, hidden: Sequence[int], activation: int, residual: int,
    *map: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Pass after pass of the whole network, each of which makes one more coordinate right: the kernel's oracle."""
    of = _Map(*map)
    order, layers = _prepare(z, weights, plan, hidden, of)
    z = z[:, order]
    x, columns, total = torch.zeros_like(z), torch.arange(z.shape[1], device=z.device), z.new_zeros(z.shape[:1])
    for i in range(z.shape[1]):
        params = run(x, layers, shift, activation, residual)[-1][:, i * of.params : (i + 1) * of.params]
        value, ladj = of.move(z[:, i : i + 1], params, True)
        x = torch.where(columns == i, value, x)
        total = total + ladj
    return x[:, order.argsort()], total


def _backward(
    inverse: bool, x: Tensor, weights: Tensor, shift: Tensor, plan: Tensor, dy: Tensor, dladj: Tensor,
    hidden: Sequence[int], activation: int, residual: int, *map: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    of = _Map(*map)
    order, layers = _prepare(x, weights, plan, hidden, of)
    x, dy = x[:, order], dy[:, order]
    pres = run(x, layers, shift, activation, residual)
    of_layers = slopes(pres, activation, residual)
    if inverse:  # linear in the gradient g of x, and in that of ladj
        dx, rates = of.gradient(x, pres[-1], torch.ones_like(dy), torch.zeros_like(dladj), True)
        of_ladj, terms = of.gradient(x, pres[-1], torch.zeros_like(dy), dladj, True)
        joined = torch.cat(of_layers, 1) if of_layers else x[:, :0]
        g, joined = made_solve(dy, joined, rates, terms, weights, plan, hidden, residual)
        dx, deltas = dx * g + of_ladj, list(joined.split([len(bias) for _, bias in layers], 1))
    else:
        dx, dparams = of.gradient(x, pres[-1], dy, dladj, False)
        deltas, through = pull(dparams, of_layers, layers, residual)
        dx = dx + through
    inputs = [x, *activations(pres, activation, residual)]
    gradients = [(delta.t() @ h, delta.sum(0)) for delta, h in zip(deltas, inputs, strict=True)]
    dweights = packed_gradients(gradients, weights.to(x.dtype), plan, x.shape[1], hidden, of.params)
    return (
        dx[:, order.argsort()],
        dweights.to(weights.dtype),
        torch.cat(deltas[:-1], 1)[:, : shift.shape[1]] if shift.shape[1] else torch.zeros_like(shift),
    )


def forward_backward_formula(*args: object) -> tuple[Tensor, Tensor, Tensor]:
    return _backward(False, *args)  # type: ignore[arg-type]


def inverse_backward_formula(*args: object) -> tuple[Tensor, Tensor, Tensor]:
    """With g = J^-T (dL/dx + dladj grad ladj), the gradients are g and the network's own at g (implicit function).

    What is sequential in it is an op of its own, so that with its kernel this is the way on a card.
    """
    return _backward(True, *args)  # type: ignore[arg-type]
