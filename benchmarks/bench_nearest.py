"""The largest of <x0, x1> + h over all targets, as a semidiscrete transport asks for every noise, beside torch.

`python -m benchmarks --only nearest`. torch's product and maximum go by pieces of the targets, so that neither rival
has the whole matrix in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pyflowk.ops import nearest
from pyflowk.ops.nearest import _formula

from .report import OURS, Case, ratio_bar
from .timing import Effort

ON_REQUEST = False
PIECES = "torch, product and max by pieces"
#: sources, targets, coordinates, and how many times as fast as torch
SIZES = ((1024, 10_000, 2, 2.0), (256, 60_000, 784, 1.0), (256, 10_000, 64, 1.0))


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "ops.nearest",
        PIECES: "x0 @ x1.T + h and max(1) of 2^22 products at a time, the larger of pieces",
    }


def case(rows: int, targets: int, dims: int, bar: float) -> Case:
    """One contest."""
    generator = torch.Generator().manual_seed(0)
    x0, x1, heights = (torch.randn(*s, generator=generator) for s in ((rows, dims), (targets, dims), (targets,)))
    variants = {OURS: lambda: nearest(x0, x1, heights), PIECES: lambda: _formula(x0, x1, heights)}
    effort = Effort(rounds=5, batches=1, warmups=1) if dims > 100 else None
    return Case(f"{rows} of {targets}, D={dims}", variants, [ratio_bar(bar, PIECES)], effort=effort)


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for size in SIZES[:1] if quick else SIZES:
        yield case(*size)
