"""The trace estimate in Triton: a tile of rows a program, which walks along them; every element makes its own counter.

Tiles depend on the row's size alone, so that a row's sum is the same in every batch. The directions are those of
`csrc/math/hutchinson.h`: the same signs, and normal numbers up to rounding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..hutchinson import _check, _check_directions
from .rk_step import _rows_here, tiling
from .tensors import accumulator, dense_rows, launch, row_stride

__all__ = ["backward", "directions", "estimate"]

_ANGLE, _UNIT = tl.constexpr(math.pi * 2.0**-31), tl.constexpr(2.0**-31)


@triton.jit
def _philox(key, block, probe, NOISE: tl.constexpr):
    k0, k1 = (key & 0xFFFFFFFF).to(tl.uint32), (key >> 32).to(tl.uint32)
    none = ((key + block) * 0).to(tl.uint32)  # of the tile's shape
    a, b = (block & 0xFFFFFFFF).to(tl.uint32) + none, (block >> 32).to(tl.uint32) + none
    c, d = probe.to(tl.uint32) + none, none + NOISE
    for _ in tl.static_range(10):
        first, first_high = a * 0xD2511F53, tl.umulhi(a, none + 0xD2511F53)
        second, second_high = c * 0xCD9E8D57, tl.umulhi(c, none + 0xCD9E8D57)
        a, b, c, d = second_high ^ b ^ k0, second, first_high ^ d ^ k1, first
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return a, b, c, d


@triton.jit
def _directions_of(key, place, size, NOISE: tl.constexpr, REAL: tl.constexpr):
    """Those of the elements `place` of rows (probes, size)."""
    probe = place // size
    dimension = place - probe * size
    if NOISE == 0:
        a, b, c, d = _philox(key, dimension >> 7, probe, NOISE)
        word = (dimension >> 5) & 3
        chosen = tl.where(word == 0, a, tl.where(word == 1, b, tl.where(word == 2, c, d)))
        return 2 * ((chosen >> (dimension & 31).to(tl.uint32)) & 1).to(REAL) - 1
    a, b, c, d = _philox(key, dimension >> 2, probe, NOISE)
    back = (dimension & 2) == 2
    w, v = tl.where(back, c, a), tl.where(back, d, b)
    radius = tl.sqrt(-2 * tl.log(((w >> 1).to(tl.int32).to(REAL) + 0.5) * _UNIT))
    angle = ((v & 0x3FFFFFFF).to(tl.int32) - 0x20000000).to(REAL) * _ANGLE
    quarter = (v >> 30).to(tl.int32) + tl.where((dimension & 1) == 0, 1, 0).to(tl.int32)  # a cosine is the next sine
    wave = tl.where((quarter & 1) == 1, tl.cos(angle), tl.sin(angle))
    return radius * tl.where((quarter & 2) == 2, -wave, wave)


@triton.jit
def _estimate(images, keys, divergence, square, rows, count, size, stride, probes, NOISE: tl.constexpr,
              ROWS: tl.constexpr, COLUMNS: tl.constexpr, REAL: tl.constexpr):  # fmt: skip
    row, in_batch = _rows_here(rows, ROWS)
    key = tl.load(keys + row, mask=in_batch, other=0)
    products, squares = tl.zeros([ROWS, COLUMNS], REAL), tl.zeros([ROWS, COLUMNS], REAL)
    for at in range(0, count, COLUMNS):
        place = (at + tl.arange(0, COLUMNS).to(tl.int64))[None, :]
        inside = in_batch & (place < count)
        image = tl.load(images + row * stride + place, mask=inside, other=0.0).to(REAL)
        products += tl.where(inside, _directions_of(key, place, size, NOISE, REAL) * image, 0)
        squares += image * image
    rows_here = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tl.store(divergence + rows_here, tl.sum(products, axis=1) / probes, mask=rows_here < rows)
    tl.store(square + rows_here, tl.sum(squares, axis=1) / probes, mask=rows_here < rows)


@triton.jit
def _backward(images, keys, ddivergence, dsquare, out, rows, count, size, stride, ddivergence_stride, dsquare_stride,
              probes, NOISE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
              REAL: tl.constexpr):  # fmt: skip
    row, in_batch = _rows_here(rows, ROWS)
    key = tl.load(keys + row, mask=in_batch, other=0)
    first = tl.load(ddivergence + row * ddivergence_stride, mask=in_batch, other=0.0).to(REAL) / probes
    second = 2 * tl.load(dsquare + row * dsquare_stride, mask=in_batch, other=0.0).to(REAL) / probes
    place = (tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    inside = in_batch & (place < count)
    image = tl.load(images + row * stride + place, mask=inside, other=0.0).to(REAL)
    value = first * _directions_of(key, place, size, NOISE, REAL) + second * image
    tl.store(out + row * count + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _directions(keys, out, rows, count, size, NOISE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                REAL: tl.constexpr):  # fmt: skip
    row, in_batch = _rows_here(rows, ROWS)
    key = tl.load(keys + row, mask=in_batch, other=0)
    place = (tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    tl.store(out + row * count + place, _directions_of(key, place, size, NOISE, REAL), mask=in_batch & (place < count))


# ---- launches ------------------------------------------------------------------------------------------------------


def estimate(images: Tensor, keys: Tensor, noise: int) -> tuple[Tensor, Tensor]:
    """The means over the probes of e . image and |image|^2."""
    _check(images, keys, noise)
    dtype, real = accumulator(images)
    divergence, square = (torch.zeros(images.shape[0], dtype=dtype, device=images.device) for _ in range(2))
    if images.numel():
        images, count = dense_rows(images), images.shape[1:].numel()
        launch(
            _estimate, images, 1, tiling(count), images, keys.contiguous(), divergence, square, images.shape[0], count,
            images.shape[2], row_stride(images), images.shape[1], NOISE=noise, REAL=real,
        )  # fmt: skip
    return divergence, square


def backward(images: Tensor, keys: Tensor, ddivergence: Tensor, dsquare: Tensor, noise: int) -> tuple[Tensor]:
    """The gradient of the images."""
    _check(images, keys, noise)
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    if images.numel():
        images, count = dense_rows(images), images.shape[1:].numel()
        tile = tiling(count)
        launch(
            _backward, images, triton.cdiv(count, tile["COLUMNS"]), tile, images, keys.contiguous(), ddivergence,
            dsquare, out, images.shape[0], count, images.shape[2], row_stride(images), ddivergence.stride(0),
            dsquare.stride(0), images.shape[1], NOISE=noise, REAL=accumulator(images)[1],
        )  # fmt: skip
    return (out,)


def directions(keys: Tensor, probes: int, size: int, noise: int, wide: bool) -> tuple[Any]:
    """The directions themselves, (B, probes, size)."""
    _check_directions(keys, probes, size, noise, wide)
    dtype = torch.float64 if wide else torch.float32
    out = torch.empty(keys.shape[0], probes, size, dtype=dtype, device=keys.device)
    if out.numel():
        tile = tiling(probes * size)
        launch(
            _directions, out, triton.cdiv(probes * size, tile["COLUMNS"]), tile, keys.contiguous(), out, out.shape[0],
            probes * size, size, NOISE=noise, REAL=tl.float64 if wide else tl.float32,
        )  # fmt: skip
    return (out,)
