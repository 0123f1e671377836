"""rk_combine, rk_error and rk_control in Triton: a tile of rows a program, which walks along them; as many slopes as
there are.

Tiles depend on the row's size alone, so that a row's sum is the same in every batch. A method's weights and times are
constants of the compiled kernel; what every solve may change, such as tolerances, are arguments, in float64, as they
would be rounded to float32 otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rk_control import COLUMNS as CLOCK
from ..rk_control import Status
from ..rk_control import _check as _control_check
from ..rk_step import _check_slopes, _error_check
from .affine_coupling import TILE
from .tensors import accumulator, dense_rows, launch, row_stride

__all__ = ["combine", "combine_backward", "control", "error"]

# the clock's columns, and what ends a row
_TIME, _NEXT, _END, _LAST, _OLDER, _STATUS, _ATTEMPTS, _ACCEPTED, _STEP, _GOOD = map(tl.constexpr, range(CLOCK))
_CLOCK = tl.constexpr(CLOCK)
_SUCCESS, _, _MAX_STEPS, _STEP_TOO_SMALL, _NON_FINITE, _RUNNING = (tl.constexpr(float(status)) for status in Status)
_DRIFT = tl.constexpr(10 * torch.finfo(torch.float64).eps)
#: Elements of a tile with clocks. A thread does the arithmetic of every row that it holds a part of: more take all
#: registers.
CLOCKED = 256


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
def _norm(y0, y1, h, ks, row, in_batch, size, y0_stride, y1_stride, strides, rtol, atol, WEIGHTS: tl.constexpr,
          ROWS: tl.constexpr, COLUMNS: tl.constexpr, REAL: tl.constexpr):  # fmt: skip
    rtol, atol = tl.full([1, 1], rtol, REAL), tl.full([1, 1], atol, REAL)
    total = tl.zeros([ROWS, COLUMNS], REAL)
    for at in range(0, size, COLUMNS):
        e = (at + tl.arange(0, COLUMNS).to(tl.int64))[None, :]
        inside = in_batch & (e < size)
        before = tl.abs(tl.load(y0 + row * y0_stride + e, mask=inside, other=0.0).to(REAL))
        after = tl.abs(tl.load(y1 + row * y1_stride + e, mask=inside, other=0.0).to(REAL))
        larger = tl.where((before > after) | (before != before), before, after)  # NaN if either is
        ratio = h * _weighted(ks, strides, row, e, inside, WEIGHTS, REAL) / (atol + rtol * larger)
        total += tl.where(inside, ratio * ratio, 0)
    return tl.sqrt(tl.sum(total, axis=1) / tl.maximum(size, 1).to(REAL))


@triton.jit
def _error(y0, y1, h, ks, norm, rows, size, y0_stride, y1_stride, h_stride, strides, rtol: tl.float64, atol: tl.float64,
           WEIGHTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, REAL: tl.constexpr):  # fmt: skip
    row, in_batch = _rows_here(rows, ROWS)
    step = tl.load(h + row * h_stride, mask=in_batch, other=0.0)
    error = _norm(y0, y1, step, ks, row, in_batch, size, y0_stride, y1_stride, strides, rtol, atol, WEIGHTS, ROWS,
                  COLUMNS, REAL)  # fmt: skip
    rows_here = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tl.store(norm + rows_here, error, mask=rows_here < rows)


@triton.jit
def _advance(clock, stride, after, times, error, here, inside, safety, shrink, grow, this, before, first, dt_min,
             dt_max, max_steps, C: tl.constexpr):  # fmt: skip
    """Turns the clocks of the rows `here`, as `csrc/math/rk_step.h`; returns which rows take their step."""
    old, new = clock + here * stride, after + here * _CLOCK
    t = tl.load(old + _TIME, mask=inside, other=0.0)
    end = tl.load(old + _END, mask=inside, other=0.0)
    last = tl.load(old + _LAST, mask=inside, other=1.0)
    older = tl.load(old + _OLDER, mask=inside, other=1.0)
    status = tl.load(old + _STATUS, mask=inside, other=0.0)
    step = tl.load(old + _STEP, mask=inside, other=0.0)
    running = status == _RUNNING
    good, finite, lands = running & (error <= 1), error - error == 0, step == end - t
    e = tl.where(error < 1e-12, 1e-12, error)
    factor = safety * tl.exp(this * tl.log(e) + before * tl.log(last) + first * tl.log(older))
    factor = tl.where(finite, factor, shrink)
    factor = tl.where(factor < shrink, shrink, factor)
    factor = tl.where(factor > grow, grow, factor)
    factor = tl.where(~good & (factor > safety), safety, factor)
    least = _DRIFT * tl.abs(t)
    least = tl.where(least < dt_min, dt_min, least)
    stuck = running & ~good & (tl.abs(step) <= least)
    size = tl.abs(step * factor)
    size = tl.where(size < least, least, size)
    size = tl.where(size > dt_max, dt_max, size)
    attempts = tl.load(old + _ATTEMPTS, mask=inside, other=0.0) + running.to(tl.float64)
    status = tl.where(good & lands, _SUCCESS, status)
    status = tl.where((status == _RUNNING) & (attempts >= max_steps), _MAX_STEPS, status)
    status = tl.where(stuck, tl.where(finite, _STEP_TOO_SMALL, _NON_FINITE), status)
    now = tl.where(good, tl.where(lands, end, t + step), t)
    following = tl.where(step.to(tl.int64, bitcast=True) < 0, -size, size)
    following = tl.where(running, following, tl.load(old + _NEXT, mask=inside, other=0.0))
    rest = end - now
    tried = tl.where(tl.abs(following) * 1.01 >= tl.abs(rest), rest, following)
    tried = tl.where(status == _RUNNING, tried, 0.0)
    tl.store(new + _TIME, now, mask=inside)
    tl.store(new + _NEXT, following, mask=inside)
    tl.store(new + _END, end, mask=inside)
    tl.store(new + _LAST, tl.where(good, e, last), mask=inside)
    tl.store(new + _OLDER, tl.where(good, last, older), mask=inside)
    tl.store(new + _STATUS, status, mask=inside)
    tl.store(new + _ATTEMPTS, attempts, mask=inside)
    accepted = tl.load(old + _ACCEPTED, mask=inside, other=0.0) + good.to(tl.float64)
    tl.store(new + _ACCEPTED, accepted, mask=inside)
    tl.store(new + _STEP, tried, mask=inside)
    tl.store(new + _GOOD, good.to(tl.float64), mask=inside)
    ahead = tl.where(tried == rest, end, now + tried)  # the end itself, not near it
    places = times + here * (len(C) + 1)
    for i in tl.static_range(len(C)):
        at = ahead if C[i] == 1 else now + C[i] * tried
        tl.store(places + i, at.to(times.dtype.element_ty), mask=inside)
    tl.store(places + len(C), tried.to(times.dtype.element_ty), mask=inside)
    return good


@triton.jit
def _control(y0, y1, k0, k1, clock, ks, y, k, after, times, rows, size, y0_stride, y1_stride, k0_stride, k1_stride,
             clock_stride, strides, rtol: tl.float64, atol: tl.float64, safety: tl.float64, shrink: tl.float64,
             grow: tl.float64, this: tl.float64, before: tl.float64, first: tl.float64, dt_min: tl.float64,
             dt_max: tl.float64, max_steps: tl.float64, WEIGHTS: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr,
             COLUMNS: tl.constexpr, REAL: tl.constexpr):  # fmt: skip
    row, in_batch = _rows_here(rows, ROWS)
    step = tl.load(clock + row * clock_stride + _STEP, mask=in_batch, other=0.0).to(REAL)
    error = _norm(y0, y1, step, ks, row, in_batch, size, y0_stride, y1_stride, strides, rtol, atol, WEIGHTS, ROWS,
                  COLUMNS, REAL)  # fmt: skip
    rows_here = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    good = _advance(clock, clock_stride, after, times, error.to(tl.float64), rows_here, rows_here < rows, safety,
                    shrink, grow, this, before, first, dt_min, dt_max, max_steps, C)[:, None]  # fmt: skip
    for at in range(0, size, COLUMNS):
        e = (at + tl.arange(0, COLUMNS).to(tl.int64))[None, :]
        inside = in_batch & (e < size)
        kept, taken = inside & ~good, inside & good
        state = tl.load(y0 + row * y0_stride + e, mask=kept, other=0.0)
        state = tl.load(y1 + row * y1_stride + e, mask=taken, other=state)
        slope = tl.load(k0 + row * k0_stride + e, mask=kept, other=0.0)
        slope = tl.load(k1 + row * k1_stride + e, mask=taken, other=slope)
        tl.store(y + row * size + e, state, mask=inside)
        tl.store(k + row * size + e, slope, mask=inside)


# ---- launches ------------------------------------------------------------------------------------------------------


def tiling(size: int, elements: int = TILE) -> dict[str, Any]:
    """Rows and columns of a tile; one of short rows has that many elements."""
    columns = min(triton.next_power_of_2(max(size, 1)), TILE)
    return {"ROWS": max(elements // columns, 1), "COLUMNS": columns}


def _strides(ks: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(row_stride(k) for k in ks)


def combine(y: Tensor, h: Tensor, ks: Sequence[Tensor], weights: Sequence[float]) -> tuple[Tensor]:
    """y + h_b sum_j w_j k_j."""
    _check_slopes("rk_combine", y, h, ks, weights)
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


def combine_backward(
    h: Tensor, ks: Sequence[Tensor], dy: Tensor, weights: Sequence[float]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The gradients of y, h and the slopes from that of the output."""
    _check_slopes("rk_combine", dy, h, ks, weights)
    gradient, ks = dense_rows(dy), [dense_rows(k) for k in ks]
    dks = [torch.empty_like(k, memory_format=torch.contiguous_format) for k in ks]
    dh = h.new_zeros(h.shape)
    if dy.numel():
        launch(
            _combine_backward, dy, 1, tiling(dy.shape[1:].numel()), h, tuple(ks), gradient, dh, tuple(dks), dy.shape[0],
            dy.shape[1:].numel(), h.stride(0), _strides(ks), row_stride(gradient), WEIGHTS=tuple(weights),
            REAL=accumulator(dy)[1],
        )  # fmt: skip
    return dy.clone(), dh, dks


def error(
    y0: Tensor, y1: Tensor, h: Tensor, ks: Sequence[Tensor], weights: Sequence[float], rtol: float, atol: float
) -> tuple[Tensor]:
    """The scaled norm of the error."""
    _error_check(y0, y1, h, ks, weights, rtol, atol)
    y0, y1, ks = dense_rows(y0), dense_rows(y1), [dense_rows(k) for k in ks]
    norm = h.new_zeros(h.shape)
    if y0.numel():
        launch(
            _error, y0, 1, tiling(y0.shape[1:].numel()), y0, y1, h, tuple(ks), norm, y0.shape[0], y0.shape[1:].numel(),
            row_stride(y0), row_stride(y1), h.stride(0), _strides(ks), float(rtol), float(atol), WEIGHTS=tuple(weights),
            REAL=accumulator(y0)[1],
        )  # fmt: skip
    return (norm,)


def control(
    y0: Tensor,
    y1: Tensor,
    k0: Tensor,
    k1: Tensor,
    clock: Tensor,
    ks: Sequence[Tensor],
    weights: Sequence[float],
    numbers: Sequence[float],
    c: Sequence[float],
) -> tuple[Tensor, ...]:
    """What follows from a tried step."""
    _control_check(y0, y1, k0, k1, clock, ks, weights, numbers, c)
    y0, y1, k0, k1, clock, *ks = map(dense_rows, (y0, y1, k0, k1, clock, *ks))
    y, k, after = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (y0, k0, clock))
    real, kind = accumulator(y0)
    times = clock.new_empty((len(clock), len(c) + 1), dtype=real)
    if len(clock):
        size = y0.shape[1:].numel()
        launch(
            _control, y0, 1, tiling(size, CLOCKED), y0, y1, k0, k1, clock, tuple(ks), y, k, after, times, len(clock),
            size, *map(row_stride, (y0, y1, k0, k1, clock)), _strides(ks), *map(float, numbers), WEIGHTS=tuple(weights),
            C=tuple(c), REAL=kind,
        )  # fmt: skip
    return y, k, after, times
