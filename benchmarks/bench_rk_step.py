"""The combinations of a dopri5 step, slopes given: one stage (five slopes), and the error norm (six slopes).

`python -m benchmarks --only rk_step`. "torchdiffeq's form" has the slopes in one tensor, last dimension the stage, and
one step for all rows: it multiplies by a vector of coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from pyflowk.ops import rk_combine, rk_error
from pyflowk.solvers import tableau

from .report import COPY_NEW, OURS, Case, never_slower_bar, ratio_bar

ON_REQUEST = False
SHAPES = {"256x2": (256, 2), "1024x64": (1024, 64), "64x3072": (64, 3072), "256x3072": (256, 3072)}
EAGER, COMPILE, STACKED = "eager", "torch.compile", "torchdiffeq's form"
DOPRI5 = tableau("dopri5")
STAGE = [w for w in DOPRI5.a[5] if w]
ERROR = [w for w in DOPRI5.error or () if w]
RTOL, ATOL = 1e-6, 1e-6


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        EAGER: "y + h (w1 k1 + ...), a step a row; the norm: max, abs, division, mean of squares, root",
        COMPILE: "of the eager form, fullgraph, static shapes",
        STACKED: "sum(k * (h w), -1) over stacked slopes; the stacking itself is not timed",
    }


def combine(y: Tensor, h: Tensor, *ks: Tensor) -> Tensor:
    total = STAGE[0] * ks[0]
    for weight, k in zip(STAGE[1:], ks[1:]):
        total = total + weight * k
    return y + h[:, None] * total


def error(y0: Tensor, y1: Tensor, h: Tensor, *ks: Tensor) -> Tensor:
    total = ERROR[0] * ks[0]
    for weight, k in zip(ERROR[1:], ks[1:]):
        total = total + weight * k
    scale = ATOL + RTOL * torch.maximum(y0.abs(), y1.abs())
    return (h[:, None] * total / scale).square().mean(1).sqrt()


def stacked_combine(y: Tensor, k: Tensor, weights: Tensor) -> Tensor:
    return y + torch.sum(k * weights, -1)


def stacked_error(y0: Tensor, y1: Tensor, k: Tensor, weights: Tensor) -> Tensor:
    scale = ATOL + RTOL * torch.max(y0.abs(), y1.abs())
    return (torch.sum(k * weights, -1) / scale).abs().pow(2).mean().sqrt()


def case(what: str, size: str) -> Case:
    """One contest."""
    shape = SHAPES[size]
    generator = torch.Generator().manual_seed(0)
    y0, y1, *ks = (torch.randn(shape, generator=generator) for _ in range(8))
    h = torch.rand(shape[0], generator=generator)
    number = y0.numel() * 4
    if what == "stage":
        ks = ks[: len(STAGE)]
        weights, stack = torch.tensor(STAGE) * 0.1, torch.stack(ks, -1)
        variants = {
            OURS: partial(rk_combine, y0, h, ks, STAGE),
            EAGER: partial(combine, y0, h, *ks),
            COMPILE: partial(torch.compile(combine, dynamic=False, fullgraph=True), y0, h, *ks),
            STACKED: partial(stacked_combine, y0, stack, weights),
        }
        traffic = number * (len(ks) + 2)
    else:
        ks = ks[: len(ERROR)]
        weights, stack = torch.tensor(ERROR) * 0.1, torch.stack(ks, -1)
        variants = {
            OURS: partial(rk_error, y0, y1, h, ks, ERROR, rtol=RTOL, atol=ATOL),
            EAGER: partial(error, y0, y1, h, *ks),
            COMPILE: partial(torch.compile(error, dynamic=False, fullgraph=True), y0, y1, h, *ks),
            STACKED: partial(stacked_error, y0, y1, stack, weights),
        }
        traffic = number * (len(ks) + 2)
    variants[COPY_NEW] = y0.clone
    compiled = {"256x2": 2.5, "1024x64": 2.5, "64x3072": 1.5, "256x3072": 1.25}[size]
    bars = [ratio_bar(compiled, COMPILE), ratio_bar(4.5, EAGER), ratio_bar(15, STACKED), never_slower_bar()]
    return Case(f"{what}, {size}", variants, bars, {OURS: traffic, COMPILE: traffic, COPY_NEW: 2 * number})


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for what in ("stage", "error norm"):
        for size in ["256x2"] if quick else SHAPES:
            yield case(what, size)
