"""How affine_coupling is called: every mask, layout, bound and direction."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pyflowk import ops
from pyflowk.ops.masks import transformed_channels

from .base import OpCase


def _coupling(event: tuple[int, ...], bound: str, **options: object) -> OpCase:
    mask, swap = options["mask"], options["swap"]

    def call(x: Tensor, params: Tensor, **more: object) -> tuple[Tensor, ...]:
        if bound == "additive":
            return ops.additive_coupling(x, params, mask=mask, swap=swap, inverse=options["inverse"], **more)
        return ops.affine_coupling(x, params, bound=bound, **options, **more)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + 17 * math.prod(event))
        channels = transformed_channels(event[0], mask, swap) * (1 if bound == "additive" else 2)
        shapes = (rows, *event), (rows, channels, *event[1:])
        return tuple(torch.randn(s, generator=generator, dtype=torch.float64).to(d)
                     for s, d in zip(shapes, (state, params or state)))  # fmt: skip

    flags = "".join(f"-{key}" for key in ("swap", "interleaved", "inverse") if options[key])
    name = f"affine_coupling-{mask}{flags}-{bound}-{'x'.join(map(str, event))}"
    return OpCase(name, "affine_coupling", call, inputs, inplace=True)


BOUNDS = ["additive", "none", "tanh", "sigmoid"]
Events = dict[str, list[tuple[int, ...]]]


def _product(events: Events) -> Iterator[OpCase]:
    """Every bound, layout and direction on each event."""
    for mask, sizes in events.items():
        for event, bound, swap, interleaved, inverse in itertools.product(
            sizes, BOUNDS, (False, True), (False, True), (False, True)
        ):
            if bound == "additive" and interleaved:
                continue
            yield _coupling(event, bound, mask=mask, swap=swap, interleaved=interleaved, inverse=inverse)


def _in_turn(events: Events) -> Iterator[OpCase]:
    """Every bound and direction on each event, the four layouts in turn: each comes with each event, and, as a mask has
    four events or more, with each mask, bound and direction."""
    for place, (mask, event) in enumerate((mask, event) for mask, sizes in events.items() for event in sizes):
        for (number, bound), inverse in itertools.product(enumerate(BOUNDS), (False, True)):
            interleaved, swap = divmod((place + number + 2 * inverse) % 4, 2)
            options = {"swap": bool(swap), "interleaved": bool(interleaved) and bound != "additive"}
            yield _coupling(event, bound, mask=mask, inverse=inverse, **options)


#: around the widths at which the kernels change their ways
EVENTS: Events = {
    "half": [(1,), (2,), (7,), (64,), (75,), (3, 5, 7), (4, 16, 16)],
    "alternating": [(2,), (7,), (64,), (3, 5, 7)],
    "checkerboard": [(1, 1, 1), (3, 5, 7), (2, 8, 8), (1, 40, 41)],
    "all": [(1,), (33,), (64,), (2, 3, 6)],
}

ALL = list(_product(EVENTS))
THIN = list(_in_turn(EVENTS))

#: one small event per kind of run, for the tests that cost much per case.
SMALL = list(_in_turn({"half": [(5,)], "alternating": [(3, 2, 2)], "checkerboard": [(2, 3, 3)], "all": [(2,)]}))

#: a handful for compile and opcheck.
FEW = [
    _coupling(event, bound, mask=mask, swap=swap, interleaved=interleaved, inverse=inverse)
    for event, bound, mask, swap, interleaved, inverse in [
        ((6,), "tanh", "half", False, False, False),
        ((7,), "sigmoid", "alternating", True, True, True),
        ((2, 4, 4), "none", "checkerboard", False, False, True),
        ((4, 3, 3), "additive", "channel", True, False, False),
    ]
]
