"""How cnf_trajectory is called: every activation and method, with and without gates, bias and probes."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from pyflowk import ops
from pyflowk.solvers import tableau

from .base import Barriers, OpCase


def _case(
    size: int, width: int, depth: int, activation: str, method: str, steps: int, probes: int = 1, gated: bool = True,
    biased: bool = False, step: float = 0.2,
) -> OpCase:  # fmt: skip
    rows = tableau(method).a[1:]
    evaluations, outputs = steps * len(rows), depth * width + size
    weights = 2 * size * width + (depth - 1) * width**2

    parts = {
        "x": (1.0, (size,)), "probes": (1.0, (probes, size)), "bias": (1.0, (width,)),
        "weights": (1.5 * width**-0.5, ()), "gates": (1.0, ()), "shifts": (0.5, ()),
    }  # fmt: skip
    absent = {"probes": probes == 0, "bias": not biased, "gates": not gated}
    parts = {name: part for name, part in parts.items() if not absent.get(name)}
    whole = {"weights": (weights,), "gates": (evaluations, outputs), "shifts": (evaluations, outputs)}

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(parts, tensors, strict=True))
        given.setdefault("probes", given["x"].new_empty((*given["x"].shape[:1], 0, size)))
        return ops.cnf_trajectory(
            **given, width=width, depth=depth, activation=activation, method=rows, steps=steps, step=step,
            scale=1 / max(probes, 1),
        )  # fmt: skip

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + 31 * prod((size, width, depth)))
        shapes = {name: whole.get(name, (rows, *event)) for name, (_, event) in parts.items()}
        return tuple((scale * torch.randn(shapes[name], generator=generator, dtype=torch.float64)).to(state)
                     for name, (scale, _) in parts.items())  # fmt: skip

    flags = f"{'-gates' if gated else ''}{'-bias' if biased else ''}"
    name = f"cnf_trajectory-{activation}-{method}x{steps}-{size}-{width}x{depth}-probes{probes}{flags}"
    return OpCase(
        name, "cnf_trajectory", call, inputs, shared=frozenset(i for i, part in enumerate(parts) if part in whole),
        dtypes=((torch.float32, torch.float32), (torch.float64, torch.float64)), extremes=False,
        summands=evaluations * (size + depth * width), conditioning=2.0,  # a stage passes its rounding on to the next
    )  # fmt: skip


ALL = [
    _case(2, 20, 3, "tanh", "rk4", 2),
    _case(2, 70, 2, "tanh", "rk4_classic", 1, probes=2, gated=False),
    _case(1, 1, 1, "tanh", "euler", 2),
    _case(3, 7, 2, "softplus", "midpoint", 3, probes=3, biased=True),
    _case(5, 17, 2, "silu", "bosh3", 2, gated=False, biased=True),
    _case(9, 6, 4, "elu", "ralston", 2),
    _case(63, 33, 1, "softplus", "heun2", 1, probes=2),
    _case(6, 12, 2, "silu", "rk4", 2, probes=0, biased=True, step=-0.3),
    _case(3, 5, 2, "sin", "euler", 2, probes=2, biased=True),
]

SMALL = [
    _case(2, 3, 2, "tanh", "rk4", 1),
    _case(1, 2, 1, "softplus", "midpoint", 2, probes=2, gated=False),
    _case(2, 2, 2, "silu", "euler", 2, biased=True),
    _case(2, 3, 1, "elu", "heun2", 1, probes=0, gated=False, biased=True),
]

FEW = [_case(2, 3, 2, "tanh", "heun2", 1), _case(2, 3, 1, "silu", "midpoint", 1, probes=2, biased=True)]

MANY_ROWS = _case(2, 3, 2, "tanh", "heun2", 1, probes=2, biased=True)  # cheap enough for thousands of rows
BARRIERS = Barriers(
    ("cnf_trajectory.cu", "product.cuh"), 7, ((ALL[0], 9), (ALL[1], 9), (ALL[5], 9), (MANY_ROWS, 264 * 32 + 1))
)
PANELS = (MANY_ROWS, 264)
