"""MADE with an elementwise map, affine or a spline, both ways: the autoregressive inverse at the price of one pass.

A network's weights travel as one flat tensor, packed by :class:`MadeLayout`: sorted by degree, in the order in which
the kernel reads them, without what the masks forbid. The number of layers varies while an op's schema is fixed, and so
a network is one differentiable argument whatever its depth; packing is one gather, its gradient a scatter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._router import FusedOp
from .made_dense import dense_op, packed_op
from .made_formula import (
    MADE_BOUNDS,
    SPLINE,
    forward_backward_formula,
    forward_formula,
    inverse_backward_formula,
    inverse_formula,
)
from .made_layout import plan_size
from .made_network import MADE_ACTIVATIONS, RESIDUAL
from .made_solve import solve_op
from .rq_spline import check_spline, tails_code

__all__ = ["MADE_ACTIVATIONS", "MADE_BOUNDS", "SPLINE", "made_forward", "made_inverse"]


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
        check_spline("made", bins, *numbers)
    elif not 0 < numbers[0] <= 80:
        raise ValueError(f"made: limit must be in (0, 80]; got {numbers[0]}")


def _fake(x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:1])


def _fake_backward(x: Tensor, weights: Tensor, shift: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weights.new_empty(weights.shape), shift.new_empty(shift.shape)


_TENSORS = "Tensor weights, Tensor shift, Tensor plan"
_CONFIG = "int[] hidden, int activation, int residual, int map, int bins, float[] numbers"


def _op(name: str, first: str, formula: object, backward: object, saves_output: bool, *parts: FusedOp) -> FusedOp:
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
        parts=(dense_op, packed_op, *parts),
    )


_forward = _op("made_forward", "x", forward_formula, forward_backward_formula, False)
_inverse = _op("made_inverse", "z", inverse_formula, inverse_backward_formula, True, solve_op)


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
    r"""Map every coordinate, by parameters that a MADE makes of the coordinates before: the density of a MAF.

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

    Cost: the multiplications that the masks leave, about half of the dense network's; the backward three times that. On
    a card torch's products of the whole matrices are faster, and there this is its formula.
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
    r"""Invert :func:`made_forward`, coordinate by coordinate, with every hidden unit computed once.

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
    if residual not in RESIDUAL:
        raise ValueError(f"residual: expected False, True, 'linear' or 'bare'; got {residual!r}")
    map = (MADE_BOUNDS[bound], 0, (limit,)) if spline is None else _spline_map(**spline)
    if shift is None:
        shift = x.new_empty((x.shape[0], 0))
    weights = weights.contiguous()
    config = (tuple(hidden), MADE_ACTIVATIONS[activation], RESIDUAL[residual], *map)
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
    return SPLINE + tails_code(tails), bins, (*map(float, interval), min_width, min_height, min_slope, float(softclip))
