"""How trace_estimate is called: both noises, one probe and several, rows of every path."""

from __future__ import annotations

import torch
from torch import Tensor

from pyflowk.ops.hutchinson import Probes, trace_estimate

from .base import DTYPES, OpCase


def _case(noise: str, probes: int, size: int) -> OpCase:
    def call(images: Tensor) -> tuple[Tensor, ...]:  # one key, so that a row is the same alone
        keys = torch.full(images.shape[:1], 2**61 + 12345, device=images.device)
        return trace_estimate(images, Probes(keys, probes, noise))

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + 17 * size)
        return (torch.randn((rows, probes, size), generator=generator, dtype=torch.float64).to(state),)

    dtypes = tuple(d for d in DTYPES if d[0] == d[1])
    # the plain formula's own directions are rounded: in float64 they are the kernel's truth
    return OpCase(f"hutchinson-{noise}-{probes}-{size}", "hutchinson", call, inputs, dtypes=dtypes,
                  summands=probes * size, extremes=False)  # fmt: skip


ALL = [
    _case("rademacher", 1, 2), _case("rademacher", 3, 130), _case("gaussian", 2, 63), _case("rademacher", 1, 1028),
    _case("gaussian", 1, 301),
]  # fmt: skip
SMALL = [_case("rademacher", 2, 5), _case("gaussian", 1, 3)]
FEW = [_case("rademacher", 2, 37), _case("gaussian", 1, 6)]
