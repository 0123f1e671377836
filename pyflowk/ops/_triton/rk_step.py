"""rk_combine and rk_error in Triton: a tile of rows a program, which walks along them; as many slopes as there are.

Tiles depend on the row's size alone, so that a row's sum is the same in every batch. The weights are constants of the
compiled kernel: a method has a few dozen rows of them, and arguments would be rounded to float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rk_step import _combine_check, _error_check
from .affine_coupling import TILE
from .tensors import accumulator, dense_rows, launch, row_stride

__all__ = ["combine", "combine_backward", "error"]


@triton.jit
def _weighted(ks, strides, row, e, inside, WEIGHTS: tl.constexpr, REAL: tl.constexpr):
    total = WEIGHTS[0] * tl.load(ks[0] + row * strides[0] + e, mask=inside, other=0.0).to(REAL)
    for j in tl.static_range(1, len(WEIGHTS)):
        total += WEIGHTS[j] * tl.load(ks[j] + row * strides[j] + e, mask=inside, other=0.0).to(REAL)
    return total


@triton.jit
def _rows_here(rows, ROWS: tl.constexpr):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    return row, row < rows


@triton.jit
def _combine(y, h, ks, out, rows, size, y_stride, h_stride, strides, WEIGHTS: tl.constexpr, ROWS: tl.constexpr,
             COLUMNS: tl.constexpr, REAL: tl.constexpr):  # fmt: skip
    row, in_batch = _rows_here(rows, ROWS)
    step = tl.load(h + row * h_stride, mask=in_batch, other=0.0)
    e = (tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    inside = in_batch & (e < size)
    value = tl.load(y + row * y_stride + e, mask=inside, other=0.0).to(REAL)
    value += step * _weighted(ks, strides, row, e, inside, WEIGHTS, REAL)
    tl.store(out + row * size + e, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _combine_backward(h, ks, dy, dh, dks, rows, size, h_stride, strides, dy_stride, WEIGHTS: tl.constexpr,
                      ROWS: tl.constexpr, COLUMNS: tl.constexpr, REAL: tl.constexpr):  # fmt: skip
    row, in_batch = _rows_here(rows, ROWS)
    step = tl.load(h + row * h_stride, mask=in_batch, other=0.0)
    total = tl.zeros([ROWS, COLUMNS], REAL)
    for at in range(0, size, COLUMNS):
        e = (at + tl.arange(0, COLUMNS).to(tl.int64))[None, :]
        inside = in_batch & (e < size)
        g = tl.load(dy + row * dy_stride + e, mask=inside, other=0.0).to(REAL)
        total += g * _weighted(ks, strides, row, e, inside, WEIGHTS, REAL)
        for j in tl.static_range(len(WEIGHTS)):
            tl.store(dks[j] + row * size + e, (WEIGHTS[j] * (step * g)).to(dks[j].dtype.element_ty), mask=inside)
    rows_here = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tl.store(dh + rows_here, tl.sum(total, axis=1), mask=rows_here < rows)


@triton.jit
def _error(y0, y1, h, ks, norm, rows, size, y0_stride, y1_stride, h_stride, strides, WEIGHTS: tl.constexpr,
           RTOL: tl.constexpr, ATOL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
           REAL: tl.constexpr):  # fmt: skip
    row, in_batch = _rows_here(rows, ROWS)
    step = tl.load(h + row * h_stride, mask=in_batch, other=0.0)
    total = tl.zeros([ROWS, COLUMNS], REAL)
    for at in range(0, size, COLUMNS):
        e = (at + tl.arange(0, COLUMNS).to(tl.int64))[None, :]
        inside = in_batch & (e < size)
        before = tl.abs(tl.load(y0 + row * y0_stride + e, mask=inside, other=0.0).to(REAL))
        after = tl.abs(tl.load(y1 + row * y1_stride + e, mask=inside, other=0.0).to(REAL))
        larger = tl.where((before > after) | (before != before), before, after)  # NaN if either is
        scale = ATOL + RTOL * larger
        ratio = step * _weighted(ks, strides, row, e, inside, WEIGHTS, REAL) / scale
        total += tl.where(inside, ratio * ratio, 0)
    rows_here = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    mean = tl.sum(total, axis=1) / tl.maximum(size, 1).to(REAL)
    tl.store(norm + rows_here, tl.sqrt(mean), mask=rows_here < rows)


# ---- launches ------------------------------------------------------------------------------------------------------


def tiling(size: int) -> dict[str, Any]:
    """Rows and columns of a tile."""
    columns = min(triton.next_power_of_2(max(size, 1)), TILE)
    return {"ROWS": TILE // columns, "COLUMNS": columns}


def _strides(ks: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(row_stride(k) for k in ks)


def combine(y: Tensor, h: Tensor, *rest: Any) -> tuple[Tensor]:
    """y + h_b sum_j w_j k_j; `rest` is the slopes and the list of their weights."""
    *ks, weights = rest
    _combine_check("rk_combine", y, h, *rest)
    y, ks = dense_rows(y), [dense_rows(k) for k in ks]
    out = torch.empty_like(y, memory_format=torch.contiguous_format)
    rows, size = y.shape[0], y.shape[1:].numel()
    if out.numel():
        tile = tiling(size)
        launch(
            _combine, y, triton.cdiv(size, tile["COLUMNS"]), tile, y, h, tuple(ks), out, rows, size, row_stride(y),
            h.stride(0), _strides(ks), WEIGHTS=tuple(weights), REAL=accumulator(y)[1],
        )  # fmt: skip
    return (out,)


def combine_backward(h: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """The gradients of y, h and the slopes from that of the output, the last tensor of `rest`."""
    *ks, dy, weights = rest
    _combine_check("rk_combine", dy, h, *ks, weights)
    gradient, ks = dense_rows(dy), [dense_rows(k) for k in ks]
    dks = [torch.empty_like(k, memory_format=torch.contiguous_format) for k in ks]
    dh = h.new_zeros(h.shape)
    if dy.numel():
        launch(
            _combine_backward, dy, 1, tiling(dy.shape[1:].numel()), h, tuple(ks), gradient, dh, tuple(dks), dy.shape[0],
            dy.shape[1:].numel(), h.stride(0), _strides(ks), row_stride(gradient), WEIGHTS=tuple(weights),
            REAL=accumulator(dy)[1],
        )  # fmt: skip
    return dy.clone(), dh, *dks


def error(y0: Tensor, y1: Tensor, h: Tensor, *rest: Any) -> tuple[Tensor]:
    """The scaled norm of the error; `rest` is the slopes, the list of their weights, rtol and atol."""
    *ks, weights, rtol, atol = rest
    _error_check("rk_error", y0, y1, h, *rest)
    y0, y1, ks = dense_rows(y0), dense_rows(y1), [dense_rows(k) for k in ks]
    norm = h.new_zeros(h.shape)
    if y0.numel():
        launch(
            _error, y0, 1, tiling(y0.shape[1:].numel()), y0, y1, h, tuple(ks), norm, y0.shape[0], y0.shape[1:].numel(),
            row_stride(y0), row_stride(y1), h.stride(0), _strides(ks), WEIGHTS=tuple(weights), RTOL=float(rtol),
            ATOL=float(atol), REAL=accumulator(y0)[1],
        )  # fmt: skip
    return (norm,)
