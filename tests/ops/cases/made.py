"""How made_forward and made_inverse are called: sizes around the blocks, depths, residual, orders, contexts, maps."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from pyflowk import ops
from pyflowk.ops.made_layout import MadeLayout

from .base import DTYPES, Barriers, OpCase

TAKES = tuple(pair for pair in DTYPES if pair[0] in (torch.float32, torch.float64))


def layout(features: int, hidden: tuple[int, ...], context: bool | str, params: int) -> MadeLayout:
    """Degrees spread evenly and then shuffled (alike in all layers), features in any order."""
    chance, low = random.Random(features), 0 if context or features == 1 else 1
    degrees = []
    for width in hidden:
        of_layer = [low + j * (features - low) // width for j in range(width)]
        random.Random(width).shuffle(of_layer)
        degrees.append(of_layer)
    order = list(range(features))
    chance.shuffle(order)
    return MadeLayout(degrees, order, params)


def case(
    inverse: bool,
    features: int,
    hidden: tuple[int, ...],
    bound: str = "tanh",
    activation: str = "tanh",
    context: bool | str = False,
    spline: dict[str, Any] | None = None,
    **options: Any,
) -> OpCase:
    params = ops.spline_params(spline["bins"], spline["tails"]) if spline else 1 if bound == "additive" else 2
    plan = layout(features, hidden, context, params)
    function = ops.made_inverse if inverse else ops.made_forward
    which = {"spline": spline} if spline else {"bound": bound}
    options = {"activation": activation, **which, **options}

    def call(x: Tensor, weights: Tensor, shift: Tensor | None = None) -> tuple[Tensor, ...]:
        return function(x, weights, shift, plan.plan.to(x.device), plan.hidden, **options)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + 17 * features)
        width = sum(hidden) if context == "all" else hidden[0] if context else None  # of the shift
        shapes = [(rows, features), (len(plan.source),)] + ([(rows, width)] if width else [])
        scales = 1.0, 0.8 / max(1, *hidden, 2) ** 0.5, 0.5
        types = state, params or state, state
        return tuple(
            (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
            for shape, scale, dtype in zip(shapes, scales, types)
        )

    name = "made_inverse" if inverse else "made_forward"
    mapped = f"{spline['tails']}{spline['bins']}" if spline else bound
    kind = "x".join(map(str, (features, *hidden)))
    flags = "".join(
        f"-{key}" for key, on in {"context": context, **options}.items() if on and key in ("context", "residual")
    )
    return OpCase(
        f"{name}-{kind}{flags}-{mapped}-{activation}", name, call, inputs, shared=frozenset({1}), dtypes=TAKES,
        extremes=False, spreads_nan=True, products_on_card=True,
        conditioning=max(32, spline["bins"] ** 2) if spline else 1.0,  # that of the op, which serves on a card
    )  # fmt: skip


def spline(bins: int, tails: str, **options: float) -> dict[str, Any]:
    return {"bins": bins, "tails": tails, "interval": (-1.5, 2.0), **options}


ALL = [
    case(inverse, *sizes, **options)
    for inverse in (False, True)
    for sizes, options in [
        ((1, ()), {"bound": "none"}),
        ((1, (3,)), {"context": True}),
        ((2, (40,)), {"bound": "sigmoid", "activation": "relu"}),
        ((5, (4, 9)), {"bound": "additive", "activation": "silu"}),
        ((8, (16, 7, 20)), {"activation": "elu", "context": True}),
        (
            (9, (30, 30, 30)),
            {"residual": "linear", "activation": "selu", "context": "all", "bound": "softplus", "limit": 1e-3},
        ),
        ((17, (7, 25)), {"activation": "leaky_relu", "context": "all", "bound": "softclip", "limit": 6.9}),
        ((33, (20, 20, 20, 20, 20)), {"residual": True, "context": True, "bound": "sigmoid"}),
        ((9, (12, 15)), {"spline": spline(4, "linear", softclip=4.0, min_width=0.0), "context": True}),
        ((11, (9, 9, 9)), {"spline": spline(3, "bounded"), "residual": "bare", "activation": "silu"}),
        ((3, (5,)), {"spline": spline(17, "circular"), "activation": "elu"}),
    ]
]

SMALL = [
    case(inverse, *sizes, **options)
    for inverse in (False, True)
    for sizes, options in [
        ((3, (4, 5)), {"context": True}),
        ((2, (3, 3, 3)), {"residual": "linear", "bound": "floored_sigmoid", "limit": 1e-3, "activation": "silu"}),
        ((2, (3, 3, 3)), {"bound": "additive", "activation": "elu", "residual": True}),
        ((3, (4,)), {"spline": spline(3, "linear"), "context": True}),
        ((2, (3, 3, 3)), {"spline": spline(2, "bounded"), "residual": "bare"}),
        ((2, (3,)), {"spline": spline(3, "circular", softclip=4.0)}),
    ]
]

FEW = [
    case(False, 3, (4,), "tanh", "silu", True),
    case(True, 3, (4, 3), "none", "tanh", True),
    case(True, 2, (3,), spline=spline(2, "bounded")),
]
BARRIERS = Barriers(
    ("made.cu",), 9, ((FEW[1], 512 * 16 + 1), *((case, 20) for case in ALL if case.op == "made_inverse"))
)
PANELS = (FEW[1], 256)  # of 32, in blocks of 16
PRODUCTS = ("made_forward",)
