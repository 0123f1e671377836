"""Random numbers by counter, of a key a row: signs, normal and uniform numbers, beside torch's own generator.

`python -m benchmarks --only random_numbers`. torch's generator is serial, so its numbers depend on all that was drawn
before; ours are made again from key and place alone, and that is what ten rounds a counter pay for.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pyflowk.ops import random_numbers
from pyflowk.ops.random_numbers import RANDOM, random_formula

from .report import OURS, Case, never_slower_bar

ON_REQUEST = False
SIZES = ((64, 128), (256, 3072))
TORCH, FORMULA = "torch.Generator", "formula"


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "ops.random_numbers, keys given",
        TORCH: "torch.randint of 0 and 1 doubled and shifted, torch.randn, torch.rand",
        FORMULA: "the same numbers in plain torch",
    }


def case(kind: str, rows: int, size: int) -> Case:
    """One contest."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator)
    shape = (rows, 1, size)
    serial = {
        "sign": lambda: torch.randint(0, 2, shape, generator=generator).mul_(2).sub_(1).float(),
        "normal": lambda: torch.randn(shape, generator=generator),
        "uniform": lambda: torch.rand(shape, generator=generator),
    }
    variants = {
        OURS: lambda: random_numbers(keys, 1, size, kind),
        TORCH: serial[kind],
        FORMULA: lambda: random_formula(keys, 1, size, RANDOM[kind], False),
    }
    return Case(f"{kind}, {rows}x{size}", variants, [never_slower_bar()])


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for kind in RANDOM:
        for rows, size in SIZES[:1] if quick else SIZES:
            yield case(kind, rows, size)
