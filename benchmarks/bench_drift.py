"""Forces of drifting at three temperatures, beside the formula with its matrices, eager and compiled.

`python -m benchmarks --only drift`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from pyflowk.ops import drift

from .report import OURS, Case, ratio_bar

ON_REQUEST = False
EAGER, COMPILED = "torch", "torch.compile"
TEMPERATURES = (0.02, 0.05, 0.2)
#: generated points, points of the data, coordinates, and how many times as fast as torch.compile
SIZES = ((512, 1024, 64, 3.0), (256, 1280, 2, 3.0), (128, 1024, 784, 1.0))


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "ops.drift, double normalisation",
        EAGER: "cdist, and for each temperature a softmax of rows and of columns and two products",
        COMPILED: "the same under torch.compile, distances by a product",
    }


def plain(y: Tensor, x: Tensor, by_product: bool = False) -> Tensor:
    """The forces as they are published."""
    points, n = torch.cat([x, y]), len(x)
    if by_product:  # torch.compile has no kernel for cdist, and breaks the graph there
        squares = y.square().sum(1)[:, None] + points.square().sum(1) - 2 * y @ points.T
        apart = squares.clamp_min(0).sqrt()
    else:
        apart = torch.cdist(y, points)
    itself = torch.arange(len(y))[:, None] + n == torch.arange(len(points))
    unit = apart.masked_fill(itself, 0).sum() / (len(y) * (len(points) - 1))
    forces = []
    for temperature in TEMPERATURES:
        logits = (-apart / (unit * temperature)).masked_fill(itself, -torch.inf)
        a = (logits.softmax(1) * logits.softmax(0)).sqrt()
        near, far = a[:, :n], a[:, n:]
        forces.append(far.sum(1, keepdim=True) * (near @ x) - near.sum(1, keepdim=True) * (far @ y))
    return torch.stack(forces)


def case(rows: int, data: int, size: int, bar: float) -> Case:
    """One contest."""
    generator = torch.Generator().manual_seed(0)
    y, x = (torch.randn(n, size, generator=generator) for n in (rows, data))
    compiled = torch.compile(partial(plain, by_product=True))
    variants = {
        OURS: lambda: drift(y, x, TEMPERATURES).forces,
        EAGER: lambda: plain(y, x),
        COMPILED: lambda: compiled(y, x),
    }
    return Case(f"{rows} of {data}, D={size}", variants, [ratio_bar(bar, COMPILED)])


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for size in SIZES[1:2] if quick else SIZES:
        yield case(*size)
