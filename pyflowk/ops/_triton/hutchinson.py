"""The trace estimate in Triton: a tile of rows a program, which walks along them; every element makes its own counter.

Tiles depend on the row's size alone, so that a row's sum is the same in every batch. The directions are those of
`csrc/math/philox.h`: the same signs, and normal numbers up to rounding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..hutchinson import _check
from .random_numbers import numbers_of
from .rk_step import _rows_here, tiling
from .tensors import accumulator, dense_rows, launch, row_stride

__all__ = ["backward", "estimate"]


@triton.jit
def _estimate(images, keys, divergence, square, rows, count, size, stride, probes, KIND: tl.constexpr,
              ROWS: tl.constexpr, COLUMNS: tl.constexpr, REAL: tl.constexpr):  # fmt: skip
    row, in_batch = _rows_here(rows, ROWS)
    key = tl.load(keys + row, mask=in_batch, other=0)
    products, squares = tl.zeros([ROWS, COLUMNS], REAL), tl.zeros([ROWS, COLUMNS], REAL)
    for at in range(0, count, COLUMNS):
        place = (at + tl.arange(0, COLUMNS).to(tl.int64))[None, :]
        inside = in_batch & (place < count)
        image = tl.load(images + row * stride + place, mask=inside, other=0.0).to(REAL)
        products += tl.where(inside, numbers_of(key, place, size, KIND, REAL) * image, 0)
        squares += image * image
    rows_here = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tl.store(divergence + rows_here, tl.sum(products, axis=1) / probes, mask=rows_here < rows)
    tl.store(square + rows_here, tl.sum(squares, axis=1) / probes, mask=rows_here < rows)


@triton.jit
def _backward(images, keys, ddivergence, dsquare, out, rows, count, size, stride, ddivergence_stride, dsquare_stride,
              probes, KIND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
              REAL: tl.constexpr):  # fmt: skip
    row, in_batch = _rows_here(rows, ROWS)
    key = tl.load(keys + row, mask=in_batch, other=0)
    first = tl.load(ddivergence + row * ddivergence_stride, mask=in_batch, other=0.0).to(REAL) / probes
    second = 2 * tl.load(dsquare + row * dsquare_stride, mask=in_batch, other=0.0).to(REAL) / probes
    place = (tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    inside = in_batch & (place < count)
    image = tl.load(images + row * stride + place, mask=inside, other=0.0).to(REAL)
    value = first * numbers_of(key, place, size, KIND, REAL) + second * image
    tl.store(out + row * count + place, value.to(out.dtype.element_ty), mask=inside)


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
            images.shape[2], row_stride(images), images.shape[1], KIND=noise, REAL=real,
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
            dsquare.stride(0), images.shape[1], KIND=noise, REAL=accumulator(images)[1],
        )  # fmt: skip
    return (out,)
