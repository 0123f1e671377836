"""Random numbers by counter in Triton: every element makes its own counter.

They are those of `csrc/math/philox.h`: the same signs and uniform numbers, and normal numbers up to rounding.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..random_numbers import _check
from .rk_step import _rows_here, tiling
from .tensors import launch

__all__ = ["draw", "numbers_of"]

_ANGLE, _UNIT, _UNIT32 = tl.constexpr(math.pi * 2.0**-31), tl.constexpr(2.0**-31), tl.constexpr(2.0**-32)


@triton.jit
def _philox(key, block, draw, KIND: tl.constexpr):
    k0, k1 = (key & 0xFFFFFFFF).to(tl.uint32), (key >> 32).to(tl.uint32)
    none = ((key + block) * 0).to(tl.uint32)  # of the tile's shape
    a, b = (block & 0xFFFFFFFF).to(tl.uint32) + none, (block >> 32).to(tl.uint32) + none
    c, d = draw.to(tl.uint32) + none, none + KIND
    for _ in tl.static_range(10):
        first, first_high = a * 0xD2511F53, tl.umulhi(a, none + 0xD2511F53)
        second, second_high = c * 0xCD9E8D57, tl.umulhi(c, none + 0xCD9E8D57)
        a, b, c, d = second_high ^ b ^ k0, second, first_high ^ d ^ k1, first
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return a, b, c, d


@triton.jit
def numbers_of(key, place, size, KIND: tl.constexpr, REAL: tl.constexpr):
    """Make the numbers at the places `place` of rows (draws, size)."""
    draw = place // size
    dimension = place - draw * size
    if KIND == 0:
        a, b, c, d = _philox(key, dimension >> 7, draw, KIND)
        word = (dimension >> 5) & 3
        chosen = tl.where(word == 0, a, tl.where(word == 1, b, tl.where(word == 2, c, d)))
        return 2 * ((chosen >> (dimension & 31).to(tl.uint32)) & 1).to(REAL) - 1
    a, b, c, d = _philox(key, dimension >> 2, draw, KIND)
    back = (dimension & 2) == 2
    if KIND == 2:
        return (tl.where((dimension & 1) == 0, tl.where(back, c, a), tl.where(back, d, b)).to(REAL) + 0.5) * _UNIT32
    w, v = tl.where(back, c, a), tl.where(back, d, b)
    radius = tl.sqrt(-2 * tl.log(((w >> 1).to(tl.int32).to(REAL) + 0.5) * _UNIT))
    angle = ((v & 0x3FFFFFFF).to(tl.int32) - 0x20000000).to(REAL) * _ANGLE
    quarter = (v >> 30).to(tl.int32) + tl.where((dimension & 1) == 0, 1, 0).to(tl.int32)  # a cosine is the next sine
    wave = tl.where((quarter & 1) == 1, tl.cos(angle), tl.sin(angle))
    return radius * tl.where((quarter & 2) == 2, -wave, wave)


@triton.jit
def _draw(keys, out, rows, count, size, KIND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                REAL: tl.constexpr):  # fmt: skip
    row, in_batch = _rows_here(rows, ROWS)
    key = tl.load(keys + row, mask=in_batch, other=0)
    place = (tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    tl.store(out + row * count + place, numbers_of(key, place, size, KIND, REAL), mask=in_batch & (place < count))


def draw(keys: Tensor, draws: int, size: int, kind: int, wide: bool) -> tuple[Tensor]:
    """Make the numbers of `pyflowk.ops.random_numbers`, (B, draws, size)."""
    _check(keys, draws, size, kind, wide)
    dtype = torch.float64 if wide else torch.float32
    out = torch.empty(keys.shape[0], draws, size, dtype=dtype, device=keys.device)
    if out.numel():
        tile = tiling(draws * size)
        launch(
            _draw, out, triton.cdiv(draws * size, tile["COLUMNS"]), tile, keys.contiguous(), out, out.shape[0],
            draws * size, size, KIND=kind, REAL=tl.float64 if wide else tl.float32,
        )  # fmt: skip
    return (out,)
