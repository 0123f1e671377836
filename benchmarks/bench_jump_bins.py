"""Rates and landing bins of jumps, as generator matching asks for every batch, beside torch.

`python -m benchmarks --only jump_bins`. torch's are the formula, eager: the places of all edges as noise, the mass
below each, the differences.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pyflowk.ops import jump_bins
from pyflowk.ops.jump_bins import _formula

from .report import OURS, Case, ratio_bar
from .timing import Effort

ON_REQUEST = False
EAGER = "torch, eager"
#: rows, coordinates, bins, and how many times as fast as torch
SIZES = ((64, 3072, 256, 5.0), (64, 64, 64, 3.0))


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {OURS: "ops.jump_bins", EAGER: "the op's formula"}


def case(rows: int, size: int, bins: int, bar: float) -> Case:
    """One contest."""
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, rows, size, generator=generator)
    x1, t = x1.tanh(), torch.rand(rows, generator=generator)
    variants = {
        OURS: lambda: jump_bins(x0, x1, t, low=-1.62, high=1.62, bins=bins),
        EAGER: lambda: _formula(x0, x1, t, -1.62, 1.62, bins),
    }
    effort = Effort(rounds=5, batches=1, warmups=1) if size > 1000 else None
    return Case(f"{rows} x {size}, {bins} bins", variants, [ratio_bar(bar, EAGER)], effort=effort)


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for size in SIZES[1:] if quick else SIZES:
        yield case(*size)
