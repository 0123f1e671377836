"""MADE with an elementwise map, affine or a spline, both ways: the autoregressive inverse at the price of one pass.

A network's weights travel as one flat tensor, packed by :class:`MadeLayout`: sorted by degree, in the order in which
the kernel reads them, without what the masks forbid. The number of layers varies while an op's schema is fixed, and so
a network is one differentiable argument whatever its depth; packing is one gather, its gradient a scatter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._router import FusedOp
from .activations import named
from .affine_coupling import ADDITIVE, BOUNDS, _log_scale, _slope
from .made_layout import matrix_shapes, plan_size, positions
from .masks import MASKS
from .rq_spline import _backward_formula as _spline_backward
from .rq_spline import _check_spline, _free_slopes, _tails_code
from .rq_spline import _formula as _spline

__all__ = ["MADE_ACTIVATIONS", "MADE_BOUNDS", "made_forward", "made_inverse"]

#: name -> code of the activation in `csrc/math/activation.h`.
MADE_ACTIVATIONS = {"relu": 0, "tanh": 1, "silu": 2, "elu": 3, "leaky_relu": 4, "selu": 5}
#: name -> code of the bound in `csrc/math/affine.h`: those of couplings, and those of flows trained elsewhere.
MADE_BOUNDS = {"additive": ADDITIVE, **BOUNDS, "softclip": 4, "softplus": 5, "floored_sigmoid": 6}
_RESIDUAL = {False: 0, True: 1, "linear": 2, "bare": 3}  # `Residual` of csrc/math/made.h

#: a map's code is that of its bound, or, of a spline, this and that of its tails.
SPLINE = len(MADE_BOUNDS)


# ---- the op in plain torch ------------------------------------------------------------------------------------------


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
    if residual == _RESIDUAL["bare"]:
        return layer % 2 == 0
    return residual == _RESIDUAL["linear"] and layer == len(layers) - 2


def _split(params: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    return (torch.zeros_like(params), params) if bound == ADDITIVE else (params[:, 0::2], params[:, 1::2])


def _scaled(raw: Tensor, bound: int, limit: float) -> Tensor:
    if bound == MADE_BOUNDS["softclip"]:
        return raw / (1 + (raw / limit).abs())
    if bound == MADE_BOUNDS["softplus"]:
        return torch.log(torch.nn.functional.softplus(raw) + limit)
    if bound == MADE_BOUNDS["floored_sigmoid"]:
        return torch.log(torch.sigmoid(raw + 2) + limit)
    return raw if bound == ADDITIVE else _log_scale(raw, bound, limit)


def _scaled_slope(raw: Tensor, bound: int, limit: float) -> Tensor:
    if bound == MADE_BOUNDS["softclip"]:
        return 1 / (1 + (raw / limit).abs()) ** 2
    if bound == MADE_BOUNDS["softplus"]:
        return torch.sigmoid(raw) / (torch.nn.functional.softplus(raw) + limit)
    if bound == MADE_BOUNDS["floored_sigmoid"]:
        gate = torch.sigmoid(raw + 2)
        return gate * torch.sigmoid(-2 - raw) / (gate + limit)
    return _slope(raw, bound, limit)


@dataclass(frozen=True)
class _Map:
    """What moves the coordinates; params are (B, P D), those of coordinate 0, of coordinate 1, ..."""

    code: int
    bins: int
    numbers: Sequence[float]  # limit, or low, high, min_width, min_height, min_slope, softclip

    @property
    def params(self) -> int:
        if self.code >= SPLINE:
            return 2 * self.bins + _free_slopes(self.bins, self.code - SPLINE)
        return 1 if self.code == ADDITIVE else 2

    def move(self, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        if self.code >= SPLINE:
            return _spline(x, params, *self._spline_config(inverse))
        raw, t = _split(params, self.code)
        s = _scaled(raw, self.code, *self.numbers)
        return ((x - t) * torch.exp(-s), -s.sum(1)) if inverse else (x * torch.exp(s) + t, s.sum(1))

    def gradient(self, x: Tensor, params: Tensor, dy: Tensor, dladj: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Of what went in and of params, from the data side x."""
        if self.code >= SPLINE:
            return _spline_backward(x, x, params, dy, dladj, *self._spline_config(inverse))
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


def _forward_formula(
    x: Tensor, weights: Tensor, shift: Tensor, plan: Tensor, hidden: Sequence[int], activation: int, residual: int,
    *map: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    of = _Map(*map)
    order, _, layers = _prepare(x, weights, plan, hidden, of)
    x = x[:, order]
    z, ladj = of.move(x, _run(x, layers, shift, activation, residual)[-1], False)
    return z[:, order.argsort()], ladj


def _inverse_formula(
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


def _forward_backward_formula(*args: object) -> tuple[Tensor, Tensor, Tensor]:
    return _backward(False, *args)  # type: ignore[arg-type]


def _inverse_backward_formula(*args: object) -> tuple[Tensor, Tensor, Tensor]:
    """With g = J^-T (dL/dx + dladj grad ladj), the gradients are g and the network's own at g (implicit function)."""
    return _backward(True, *args)  # type: ignore[arg-type]


def _check(
    x: Tensor, weights: Tensor, shift: Tensor, plan: Tensor, hidden: Sequence[int], activation: int, residual: int,
    map: int, bins: int, numbers: Sequence[float],
) -> None:  # fmt: skip
    """What `csrc/bind/made.cpp` checks, for the paths that do not go through it."""
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"made: x must be float32 or float64; got {x.dtype}")
    narrow = (torch.bfloat16, torch.float16) if x.dtype == torch.float32 else ()
    if weights.dtype not in (x.dtype, *narrow) or shift.dtype != x.dtype:
        raise TypeError(
            "made: weights must have x's dtype (or 16 bits beside a float32 x) and shift x's dtype; "
            f"got x {x.dtype}, weights {weights.dtype}, shift {shift.dtype}"
        )
    if not x.device == weights.device == shift.device == plan.device:
        raise ValueError(
            "made: x, weights, shift and plan must be on one device; "
            f"got {x.device}, {weights.device}, {shift.device}, {plan.device}"
        )
    if x.ndim != 2 or x.shape[1] < 1:
        raise ValueError(f"made: x must be (B, D) with D >= 1; got {tuple(x.shape)}")
    features, layers = x.shape[1], len(hidden)
    if residual and (layers % 2 != 1 or len(set(hidden)) != 1):
        raise ValueError(f"made: a residual network has 1 + 2 k hidden layers of one width; got {tuple(hidden)}")
    size = plan_size(features, layers)
    if plan.shape != (size,):
        raise ValueError(
            f"made: plan must be ({size},) for x {tuple(x.shape)}, {layers} hidden layers; got {tuple(plan.shape)}"
        )
    if weights.ndim != 1:
        raise ValueError(f"made: weights must be packed, (n,); got {tuple(weights.shape)}")
    first = hidden[0] if hidden else 0
    if shift.ndim != 2 or shift.shape[0] != x.shape[0] or shift.shape[1] not in (0, first, sum(hidden)):
        raise ValueError(
            f"made: shift must be ({x.shape[0]}, n) with n = 0, {first} or {sum(hidden)}; got {tuple(shift.shape)}"
        )
    if map >= SPLINE:
        _check_spline("made", bins, *numbers)
    elif not 0 < numbers[0] <= 80:
        raise ValueError(f"made: limit must be in (0, 80]; got {numbers[0]}")


def _fake(x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:1])


def _fake_backward(x: Tensor, weights: Tensor, shift: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weights.new_empty(weights.shape), shift.new_empty(shift.shape)


_TENSORS = "Tensor weights, Tensor shift, Tensor plan"
_CONFIG = "int[] hidden, int activation, int residual, int map, int bins, float[] numbers"


def _op(name: str, first: str, formula: object, backward: object, saves_output: bool) -> FusedOp:
    return FusedOp(
        name,
        f"(Tensor {first}, {_TENSORS}, {_CONFIG}) -> (Tensor, Tensor)",
        formula=formula,  # type: ignore[arg-type]
        check=_check,
        fake=_fake,
        saved=lambda x, weights, shift, plan, y, ladj: (y if saves_output else x, weights, shift, plan),
        backward=FusedOp(
            f"{name}_backward",
            f"(Tensor x, {_TENSORS}, Tensor dy, Tensor dladj, {_CONFIG}) -> (Tensor, Tensor, Tensor)",
            formula=backward,  # type: ignore[arg-type]
            fake=_fake_backward,
            shared=("weights", "plan"),
            indices=("plan",),
        ),
        shared=("weights", "plan"),
        indices=("plan",),
        expand_below=0,
    )


_forward = _op("made_forward", "x", _forward_formula, _forward_backward_formula, saves_output=False)
_inverse = _op("made_inverse", "z", _inverse_formula, _inverse_backward_formula, saves_output=True)


def made_forward(
    x: Tensor,
    weights: Tensor,
    shift: Tensor | None,
    plan: Tensor,
    hidden: Sequence[int],
    *,
    activation: str = "relu",
    residual: bool | str = False,
    bound: str = "tanh",
    limit: float = 2.0,
    spline: Mapping[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""A map of every coordinate, its parameters by a MADE from the coordinates before: density of a MAF.

    :math:`z_i = x_i e^{s_i} + t_i` with (s_i, t_i) a function of x_0..x_{i-1}, ladj = sum s; or, with `spline`, z_i is
    the spline of :func:`rq_spline` at x_i, its `spline_params` parameters such a function, ladj = sum log dz/dx.
    Hidden layers are :math:`h_l = \phi(W_l h_{l-1} + b_l + \text{shift}_l)`; with `residual`, every second layer adds
    what stood two layers before, ahead of its activation; with residual="linear" the output layer reads the last hidden
    one without an activation, with "bare" every second layer from the first goes on without one. s is the raw log-scale
    under `bound`, as in :func:`affine_coupling`; "additive" has no scale. For flows trained elsewhere there are
    "softclip", s = raw / (1 + abs(raw) / limit), "softplus", s = log(softplus(raw) + limit), and "floored_sigmoid",
    s = log(sigmoid(raw + 2) + limit).

    Args:
        x: (B, D), float32 or float64, features in their own order; 16-bit x is widened, and z narrowed again.
        weights: packed by :class:`MadeLayout`, x's dtype, or bfloat16/float16 beside a float32 x.
        shift: what a context adds: (B, units of the first layer), or of all hidden layers one after the other, in each
            in the order of ascending degree; or None.
        plan, hidden: of the layout, plan on x's device.
        activation: relu, tanh, silu, elu, leaky_relu or selu.
        spline: a spline in place of the affine map: the keywords bins, interval, tails, min_width, min_height,
            min_slope and softclip of :func:`rq_spline`, as there. None: affine, by bound and limit.

    Returns:
        z, shaped as x; ladj (B,) in nats, float32 (float64 for a float64 x).

    Raises:
        ValueError, TypeError: unknown names; numbers of a map out of range; shapes, dtypes or devices that do not fit.

    Cost: the multiplications that the masks leave, about half of the dense network's; the backward three times that.
    Sources: Germain, Gregor, Murray, Larochelle 2015 (arXiv:1502.03509); Papamakarios, Pavlakou, Murray 2017
    (arXiv:1705.07057); splines: Durkan, Bekasov, Murray, Papamakarios 2019 (arXiv:1906.04032).

    >>> from pyflowk.ops import MadeLayout
    >>> layout = MadeLayout([[1]], order=[1, 0])
    >>> weights = torch.zeros(len(layout.source))
    >>> made_forward(torch.tensor([[3.0, 4.0]]), weights, None, layout.plan, layout.hidden)
    (tensor([[3., 4.]]), tensor([0.]))
    """
    return _call(_forward, x, weights, shift, plan, hidden, activation, residual, bound, limit, spline)


def made_inverse(
    z: Tensor,
    weights: Tensor,
    shift: Tensor | None,
    plan: Tensor,
    hidden: Sequence[int],
    *,
    activation: str = "relu",
    residual: bool | str = False,
    bound: str = "tanh",
    limit: float = 2.0,
    spline: Mapping[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The inverse of :func:`made_forward`, coordinate by coordinate, every hidden unit computed once.

    :math:`x_i = (z_i - t_i) e^{-s_i}` with (s_i, t_i) a function of x_0..x_{i-1}, ladj = - sum s; or the inverse of
    the spline, by the root of its quadratic. Args, results and errors are those of :func:`made_forward`.

    Cost: about that of one forward pass, where passes of the whole network would take D of them. The gradient is one
    sweep from the last coordinate to the first, with no more memory than a forward's: :math:`g = J^{-T} (dL/dx +
    dladj \nabla ladj)` is the gradient of z, and that of the weights is minus the network's own at g.

    >>> from pyflowk.ops import MadeLayout
    >>> layout = MadeLayout([[1]], order=[1, 0])
    >>> weights = torch.linspace(-1, 1, len(layout.source))
    >>> x, ladj = made_inverse(torch.tensor([[3.0, 4.0]]), weights, None, layout.plan, layout.hidden)
    >>> made_forward(x, weights, None, layout.plan, layout.hidden)[0].round(decimals=4)
    tensor([[3., 4.]])
    """
    return _call(_inverse, z, weights, shift, plan, hidden, activation, residual, bound, limit, spline)


def _call(
    op: FusedOp, x: Tensor, weights: Tensor, shift: Tensor | None, plan: Tensor, hidden: Sequence[int],
    activation: str, residual: bool | str, bound: str, limit: float, spline: Mapping[str, Any] | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if activation not in MADE_ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(MADE_ACTIVATIONS)}; got {activation!r}")
    if bound not in MADE_BOUNDS:
        raise ValueError(f"bound: expected one of {', '.join(MADE_BOUNDS)}; got {bound!r}")
    if residual not in _RESIDUAL:
        raise ValueError(f"residual: expected False, True, 'linear' or 'bare'; got {residual!r}")
    map = (MADE_BOUNDS[bound], 0, (limit,)) if spline is None else _spline_map(**spline)
    if shift is None:
        shift = x.new_empty((x.shape[0], 0))
    weights = weights.contiguous()
    config = (tuple(hidden), MADE_ACTIVATIONS[activation], _RESIDUAL[residual], *map)
    if x.dtype in (torch.bfloat16, torch.float16):
        y, ladj = op((x.float(), weights, shift.float(), plan, *config))
        return y.to(x.dtype), ladj
    return op((x, weights, shift, plan, *config))


def _spline_map(
    bins: int = 8,
    interval: tuple[float, float] = (-3.0, 3.0),
    tails: str = "linear",
    min_width: float = 1e-3,
    min_height: float = 1e-3,
    min_slope: float = 1e-3,
    softclip: float = 0.0,
) -> tuple[int, int, tuple[float, ...]]:
    """(map, bins, numbers) of the op, from keywords of `rq_spline`."""
    return SPLINE + _tails_code(tails), bins, (*map(float, interval), min_width, min_height, min_slope, float(softclip))
