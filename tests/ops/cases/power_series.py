"""How power_series is called: every number of factors, widths around a register's, rows that have 0 to all terms."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from pyflowk import ops

from .base import DTYPES, Barriers, OpCase


def _case(widths: tuple[int, ...], terms: int, exact_terms: int = 1, survival: float = 1.0) -> OpCase:
    hidden = widths[1:-1]

    def call(probe: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        row = probe.detach()[:, 0].abs().nan_to_num(0.0, 9.0).clamp(max=9.0)  # decides by itself how many terms it has
        reached = (row * terms / 2).long()
        slopes, weights = tensors[: len(hidden)], tensors[len(hidden) :]
        options = {"terms": terms, "exact_terms": exact_terms, "survival": survival}
        return ops.power_series(probe, slopes, weights, reached, **options)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + 13 * sum(widths))

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        slopes = (noise(rows, width).tanh() for width in hidden)
        matrices = (noise(b, a) / (a**0.5 + b**0.5) for a, b in pairwise(widths))
        return tuple(t.to(state) for t in (noise(rows, widths[0]), *slopes, *matrices))

    shared = frozenset(range(len(widths) - 1, 2 * len(widths) - 2))
    name = f"power_series-{'x'.join(map(str, widths))}-{terms}-{exact_terms}-{survival}"
    return OpCase(
        name, "power_series", call, inputs, shared=shared,
        dtypes=tuple(pair for pair in DTYPES if pair[0] in (torch.float32, torch.float64)), extremes=False,
        summands=terms * sum(widths), gradients_of_torch=True,
    )  # fmt: skip


ALL = [
    _case((1, 1, 1), 5),
    _case((63, 70, 40, 63), 3),
    _case((2, 33, 17, 9, 2), 6, 2, 0.6),
    _case((5, 6, 7, 8, 9, 5), 4, 3, 0.5),
    _case((130, 7, 130), 2),
]
SMALL = [_case((2, 3, 2), 3, 1, 0.7), _case((3, 2, 4, 3), 2)]
FEW = [_case((2, 3, 2), 3, 1, 0.7), _case((1, 2, 1, 1), 2)]
BARRIERS = Barriers(("power_series.cu",), 1, ((ALL[1], 33),))
PANELS = (FEW[0], 264)
