"""How rq_spline is called: every kind of tails, layout, mask and direction."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pyflowk import ops
from pyflowk.ops.masks import transformed_channels

from .base import Barriers, OpCase


def _spline(event: tuple[int, ...], mask: str, swap: bool, spread: float = 0.5, **options: object) -> OpCase:
    bins, tails = options["bins"], options["tails"]

    def call(x: Tensor, params: Tensor) -> tuple[Tensor, ...]:
        return ops.rq_spline(x, params, mask=mask, swap=swap, interval=(-1.5, 2.0), **options)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + 17 * math.prod(event) + bins)
        channels = transformed_channels(event[0], mask, swap) * ops.spline_params(bins, tails)
        x = torch.randn((rows, *event), generator=generator, dtype=torch.float64)
        given = torch.randn((rows, channels, *event[1:]), generator=generator, dtype=torch.float64) * spread
        return x.to(state), given.to(params or state)

    flags = "".join(f"-{key}" for key in ("softclip", "interleaved", "inverse") if options.get(key))
    name = f"rq_spline-{tails}{bins}-{mask}{'-swap' if swap else ''}{flags}-{'x'.join(map(str, event))}"
    # Curvature goes with the square of the bins; test_rq_spline.py compares the errors over many elements. Far out on a
    # circle the position on it is nothing but rounding.
    return OpCase(name, "rq_spline", call, inputs, conditioning=max(32, bins**2), extremes=tails != "circular")


def _options(events: list[tuple[str, bool, tuple[int, ...], int]]) -> Iterator[OpCase]:
    """Every kind of tails, layout and direction, half of the combinations on each (mask, swap, event, bins)."""
    choices = list(itertools.product(("linear", "bounded", "circular"), (False, True), (False, True)))
    for i, (mask, swap, event, bins) in enumerate(events):
        for j, (tails, interleaved, inverse) in enumerate(choices):
            if (j // 2 + j + i) % 2 == 0:  # either layout with either direction in turn
                clip = {"softclip": 4.0, "min_width": 0.0} if (i + j // 2) % 3 == 0 else {}
                yield _spline(
                    event, mask, swap, bins=bins, tails=tails, interleaved=interleaved, inverse=inverse, **clip
                )


#: events around the widths at which the kernels change their ways, few and many bins.
ALL = list(
    _options(
        [
            ("half", False, (1,), 4),
            ("half", True, (7,), 2),
            ("half", False, (3, 5, 7), 3),
            ("alternating", True, (9,), 5),
            ("checkerboard", False, (2, 3, 5), 3),
            ("all", False, (33,), 8),
            ("all", False, (70,), 16),
        ]
    )
)

#: one small event per kind of tails and direction, for the tests that cost much per case.
SMALL = [
    _spline(event, mask, swap, 0.25, bins=3, tails=tails, interleaved=interleaved, inverse=inverse, softclip=softclip)
    for (tails, mask, swap, event, interleaved, softclip), inverse in itertools.product(
        [
            ("linear", "half", False, (5,), True, 4.0),
            ("linear", "checkerboard", True, (1, 3, 3), False, 0.0),
            ("bounded", "all", False, (2,), False, 0.0),
            ("circular", "alternating", False, (3, 2), True, 4.0),
        ],
        (False, True),
    )
]

#: a handful for compile and opcheck.
FEW = [
    _spline((6,), "half", False, 0.25, bins=4, tails="linear", interleaved=True, inverse=False),
    _spline((2, 3, 4), "checkerboard", True, 0.25, bins=3, tails="bounded", interleaved=False, inverse=True),
    _spline((5,), "all", False, 0.25, bins=2, tails="circular", interleaved=False, inverse=False),
]

#: several turns of a warp, whose lanes read each other's params and move nothing.
UNMOVED = _spline((40, 1, 1), "checkerboard", False, bins=4, tails="linear", interleaved=True, inverse=False)
BARRIERS = Barriers(("rq_spline.cu",), 4, tuple((case, 3) for case in (UNMOVED, *ALL)))
