"""affine_coupling in Triton: a tile of rows a program; the formulas of `csrc/math/affine.h`, the masks of `places.h`.

Everything is widened to float32 (float64 stays) right after its load: the interpreter gets 16-bit arithmetic wrong.
Tile sizes depend on the row's size alone, so that a row's log-determinant is the same sum in every batch.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..affine_coupling import ADDITIVE, BOUNDS, _check
from ..masks import MASKS
from .tensors import accumulator, dense_rows, launch, require_gradients, row_stride

__all__ = ["backward", "forward"]

TILE = 1024  # elements of a tile
STEPS = 8  # tiles that a program walks along its rows before the next program takes over
_LARGEST = 2**30  # elements of a row, up to which 32-bit offsets reach all of its params

_NONE, _TANH, _SIGMOID = tl.constexpr(BOUNDS["none"]), tl.constexpr(BOUNDS["tanh"]), tl.constexpr(BOUNDS["sigmoid"])
_ADDITIVE = tl.constexpr(ADDITIVE)


@triton.jit
def _tanh(x):
    # next to zero by its series, where the quotient would cancel; the terms from w^6 on only matter to float64
    w = x * x
    series = -113927491862 / 2900518163668125
    series = series * w + 18888466084 / 194896477400625
    series = series * w - 443861162 / 1856156927625
    series = series * w + 6404582 / 10854718875
    series = series * w - 929569 / 638512875
    series = series * w + 21844 / 6081075
    series = series * w - 1382 / 155925
    series = series * w + 62 / 2835
    series = series * w - 17 / 315
    series = series * w + 2 / 15
    series = series * w - 1 / 3
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    return tl.where(tl.abs(x) < 0.25, x + x * w * series, tl.where(x < 0, -far, far))


@triton.jit
def _scale(raw, LIMIT: tl.constexpr, INVERSE: tl.constexpr, BOUND: tl.constexpr):
    """(s, e^s or e^-s, ds / draw)"""
    if BOUND == _TANH:
        h = _tanh(raw / LIMIT)
        s = LIMIT * h
        factor = tl.exp(-s) if INVERSE else tl.exp(s)
        slope = 1 - h * h
    elif BOUND == _SIGMOID:
        u = raw + 2
        e = tl.exp(-tl.abs(u))
        whole = 1 + e
        s = tl.where(u < 0, u, 0) - (tl.log(whole) + (e - (whole - 1)) / whole)
        small = tl.where(u < 0, e, 1)
        factor = whole / small if INVERSE else small / whole
        slope = tl.where(u < 0, 1, e) / whole
    else:
        s = raw
        factor = tl.exp(-raw) if INVERSE else tl.exp(raw)
        slope = 1 + 0 * raw
    return s, factor, slope


@triton.jit
def _place(e, begin, end, inner, width, MASK: tl.constexpr):
    """Tell whether element e of a row is transformed and has params, and where its raw log-scale is."""
    SOLID: tl.constexpr = MASK[0]
    BOARD: tl.constexpr = MASK[1]
    ALTERNATING: tl.constexpr = MASK[2]
    SWAP: tl.constexpr = MASK[3]
    PAIRS: tl.constexpr = MASK[4]
    if SOLID:  # channels begin..end, all raw log-scales, then all shifts
        param = e - begin * inner
        moved = (param >= 0) & (e < end * inner)
        return moved, moved, param
    channel = e // inner
    rest = e - channel * inner
    if BOARD:
        row = rest // width
        moved = ((row + rest - row * width) & 1) != SWAP
        return moved, e >= 0, (PAIRS * channel) * inner + rest
    index = channel - begin
    moved = (channel >= begin) & (channel < end)
    if ALTERNATING:
        moved = moved & ((index & 1) == 0)
        index = index >> 1
    return moved, moved, (PAIRS * index) * inner + rest


@triton.jit
def _tile(rows, SEGMENT: tl.constexpr, ROWS: tl.constexpr, INDEX: tl.constexpr):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    return row, row < rows, tl.program_id(1).to(INDEX) * SEGMENT


@triton.jit
def _forward(x, params, y, sums, rows, size, x_stride, params_stride, y_stride, shift, begin, end, inner, width,
             segments, MASK: tl.constexpr, LIMIT: tl.constexpr, INVERSE: tl.constexpr, BOUND: tl.constexpr,
             INPLACE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SEGMENT: tl.constexpr,
             REAL: tl.constexpr, INDEX: tl.constexpr):  # fmt: skip
    row, in_batch, start = _tile(rows, SEGMENT, ROWS, INDEX)
    total = tl.zeros([ROWS, COLUMNS], REAL)
    for at in range(0, SEGMENT, COLUMNS):
        e = (start + at + tl.arange(0, COLUMNS))[None, :]
        moved, _, param = _place(e, begin, end, inner, width, MASK)
        inside = in_batch & (e < size)
        value = tl.load(x + row * x_stride + e, mask=inside, other=0.0).to(REAL)
        here = params + row * params_stride + param
        t = tl.load(here + shift, mask=inside & moved, other=0.0).to(REAL)
        if BOUND == _ADDITIVE:
            result = value - t if INVERSE else value + t
        else:
            raw = tl.load(here, mask=inside & moved, other=0.0).to(REAL)
            s, factor, _ = _scale(raw, LIMIT, INVERSE, BOUND)
            result = (value - t) * factor if INVERSE else value * factor + t
            total += tl.where(inside & moved, s, 0)
        writes = inside & moved if INPLACE else inside
        tl.store(y + row * y_stride + e, tl.where(moved, result, value).to(y.dtype.element_ty), mask=writes)
    ladj = tl.sum(total, axis=1)
    rows_here = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tl.store(sums + rows_here * segments + tl.program_id(1), -ladj if INVERSE else ladj, mask=rows_here < rows)


@triton.jit
def _backward(y, params, dy, dladj, dx, dparams, rows, size, param_size, y_stride, params_stride, dy_stride,
              dladj_stride, shift, begin, end, inner, width, MASK: tl.constexpr, LIMIT: tl.constexpr,
              INVERSE: tl.constexpr, BOUND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
              SEGMENT: tl.constexpr, REAL: tl.constexpr, INDEX: tl.constexpr):  # fmt: skip
    row, in_batch, start = _tile(rows, SEGMENT, ROWS, INDEX)
    share = tl.load(dladj + row * dladj_stride, mask=in_batch, other=0.0).to(REAL)
    for at in range(0, SEGMENT, COLUMNS):
        e = (start + at + tl.arange(0, COLUMNS))[None, :]
        moved, has_params, param = _place(e, begin, end, inner, width, MASK)
        inside = in_batch & (e < size)
        g = tl.load(dy + row * dy_stride + e, mask=inside, other=0.0).to(REAL)
        here = row * params_stride + param
        there = row * param_size + param
        kind = dparams.dtype.element_ty
        if BOUND == _ADDITIVE:
            gradient = g
            dt = -g if INVERSE else g
        else:
            raw = tl.load(params + here, mask=inside & moved, other=0.0).to(REAL)
            value = tl.load(y + row * y_stride + e, mask=inside, other=0.0).to(REAL)
            _, factor, slope = _scale(raw, LIMIT, INVERSE, BOUND)
            gradient = g * factor
            if INVERSE:
                dt = -gradient
                draw = (-g * value - share) * slope
            else:
                t = tl.load(params + here + shift, mask=inside & moved, other=0.0).to(REAL)
                dt = g
                draw = (g * (value - t) + share) * slope
            tl.store(dparams + there, tl.where(moved, draw, 0).to(kind), mask=inside & has_params)
        tl.store(dparams + there + shift, tl.where(moved, dt, 0).to(kind), mask=inside & has_params)
        tl.store(dx + row * size + e, tl.where(moved, gradient, g).to(dx.dtype.element_ty), mask=inside)


# ---- launches ------------------------------------------------------------------------------------------------------


def layout(shape: torch.Size, mask: int, bound: int, interleaved: bool) -> tuple[dict[str, int], tuple[int, ...]]:
    """The integers that describe an event to the kernels, and MASK: (solid, board, alternating, swapped, pairs)."""
    channels, inner = shape[1], shape[2:].numel()
    kind, swap = mask & ~1, mask & 1
    board, alternating = kind == MASKS["checkerboard"], kind == MASKS["alternating"]
    begin, end, pairs = 0, channels, 1 + (interleaved and bound != ADDITIVE)
    if kind == MASKS["half"]:
        begin, end = (0, channels // 2) if swap else (channels // 2, channels)
    elif alternating:
        begin = 1 - swap
    count = len(range(begin, end, 2 if alternating else 1))
    shift = 0 if bound == ADDITIVE else inner * (1 if interleaved else count)
    solid = pairs == 1 and not board and not alternating
    numbers = {"shift": shift, "begin": begin, "end": end, "inner": max(inner, 1), "width": max(shape[-1], 1)}
    return numbers, (int(solid), int(board), int(alternating), swap, pairs)


def tiling(size: int) -> dict[str, Any]:
    """Rows and columns of a tile, the length of a program's walk, the type of offsets within a row."""
    columns = min(triton.next_power_of_2(max(size, 1)), TILE)
    steps = min(STEPS, triton.cdiv(max(size, 1), columns))
    index = tl.int32 if size <= _LARGEST else tl.int64
    return {"ROWS": TILE // columns, "COLUMNS": columns, "SEGMENT": columns * steps, "INDEX": index}


def forward(
    x: Tensor, params: Tensor, mask: int, bound: int, limit: float, interleaved: bool, inverse: bool,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(y, ladj) of `pyflowk.ops.affine_coupling`."""
    _check(x, params, mask, bound, limit)
    whole, params = dense_rows(x), dense_rows(params)
    y = whole if inplace else torch.empty_like(x, memory_format=torch.contiguous_format)
    numbers, kind = layout(x.shape, mask, bound, interleaved)
    rows, size = x.shape[0], x.shape[1:].numel()
    tile, (dtype, real) = tiling(size), accumulator(x)
    segments = max(triton.cdiv(size, tile["SEGMENT"]), 1)
    sums = torch.empty(rows, segments, dtype=dtype, device=x.device)
    if rows:
        launch(
            _forward, x, segments, tile, whole, params, y, sums, rows, size, row_stride(whole),
            row_stride(params), row_stride(y), segments=segments, **numbers, MASK=kind, LIMIT=float(limit),
            INVERSE=bool(inverse), BOUND=bound, INPLACE=bool(inplace), REAL=real,
        )  # fmt: skip
    if inplace and whole is not x:
        y = x.copy_(whole)
    return y, sums[:, 0] if segments == 1 else sums.sum(1)


def backward(
    y: Tensor, params: Tensor, dy: Tensor, dladj: Tensor, mask: int, bound: int, limit: float, interleaved: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(dx, dparams) from the output of `forward` and the gradients of y and ladj."""
    _check(y, params, mask, bound, limit)
    real = accumulator(y)[1]
    require_gradients("affine_coupling", y, dy, dladj)
    y, params, dy = dense_rows(y), dense_rows(params), dense_rows(dy)
    dx = torch.empty_like(y, memory_format=torch.contiguous_format)
    dparams = torch.empty_like(params, memory_format=torch.contiguous_format)
    numbers, kind = layout(y.shape, mask, bound, interleaved)
    rows, size = y.shape[0], y.shape[1:].numel()
    tile = tiling(size)
    if rows and size:
        launch(
            _backward, y, triton.cdiv(size, tile["SEGMENT"]), tile, y, params, dy, dladj, dx, dparams, rows,
            size, dparams[0].numel(), row_stride(y), row_stride(params), row_stride(dy), dladj.stride(0), **numbers,
            MASK=kind, LIMIT=float(limit), INVERSE=bool(inverse), BOUND=bound, REAL=real,
        )  # fmt: skip
    return dx, dparams
