"""rq_spline in Triton: a tile of rows a program; the formulas of `csrc/math/spline.h`, the masks of affine_coupling.py.

Logits are read again for each pass over the bins (largest, sum, search, gradient): they lie in cache by then.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..affine_coupling import BOUNDS
from ..rq_spline import _check
from ..rq_spline_formula import STEEPEST, TAILS, free_slopes
from .affine_coupling import _place, _tile, layout
from .tensors import accumulator, dense_rows, launch, require_gradients, row_stride

__all__ = ["backward", "forward"]

TILE, STEPS = 256, 8  # elements of a tile; tiles that a program walks along its rows
_LINEAR, _BOUNDED, _CIRCULAR = (tl.constexpr(TAILS[name]) for name in ("linear", "bounded", "circular"))
_STEEPEST = tl.constexpr(STEEPEST)


@triton.jit
def _weigh(at, shift, live, BINS: tl.constexpr, CLIP: tl.constexpr, REAL: tl.constexpr):
    """(largest logit, one over the sum of e^(logit - largest))"""
    largest = tl.load(at, mask=live, other=0.0).to(REAL)
    for k in range(1, BINS):
        logit = tl.load(at + k * shift, mask=live, other=0.0).to(REAL)
        largest = tl.where(logit > largest, logit, largest)
    if CLIP > 0:  # which keeps the order
        largest = largest * _factor(largest, 2 * CLIP)
    total = tl.zeros_like(largest)
    for k in range(BINS):
        total += _weight(at + k * shift, largest, live, CLIP, REAL)[0]
    return largest, 1 / total


@triton.jit
def _factor(u, CLIP: tl.constexpr):
    """The factor of a soft clip at 1 / CLIP: times u it is u clipped, and its square is the slope."""
    return 1 / (1 + tl.abs(u * CLIP))


@triton.jit
def _weight(at, largest, live, CLIP: tl.constexpr, REAL: tl.constexpr):
    """(e^(logit - largest), d logit / d raw)"""
    logit = tl.load(at, mask=live, other=0.0).to(REAL)
    bend = tl.full(logit.shape, 1, REAL)
    if CLIP > 0:
        factor = _factor(logit, 2 * CLIP)
        logit, bend = logit * factor, factor * factor
    x = logit - largest
    return tl.exp(tl.where(x < -80, -80, x)), bend


@triton.jit
def _small(x):
    """e^-|x|"""
    size = tl.abs(x)
    return tl.exp(-tl.where(size > 80, 80, size))


@triton.jit
def _slope(raw, SLOPE: tl.constexpr):
    """(slope, d slope / d raw)"""
    if SLOPE[2] > 0:
        factor = _factor(raw, SLOPE[2])
        slope = tl.exp(raw * factor)
        bend = slope * factor * factor
    else:
        x = raw + SLOPE[1]
        steep = x > _STEEPEST
        x = tl.where(steep, _STEEPEST, x)
        e = _small(x)
        whole = 1 + e
        slope = SLOPE[0] + (tl.where(x > 0, x, 0) + (tl.log(whole) + (e - (whole - 1)) / whole))
        bend = tl.where(steep, 0, tl.where(x < 0, e, 1) / whole)
    return slope, bend


@triton.jit
def _knot(at, knot, shift, live, BINS: tl.constexpr, TAIL: tl.constexpr, REAL: tl.constexpr):
    """(its place among the free slopes, -1 without one; its raw slope)"""
    place = knot
    if TAIL == _LINEAR:
        place = tl.where(knot == BINS, -1, knot - 1)
    elif TAIL == _CIRCULAR:
        place = tl.where(knot == BINS, 0, knot)
    return place, tl.load(at + place * shift, mask=live & (place >= 0), other=0.0).to(REAL)


@triton.jit
def _find(at, shift, live, folded, BY_HEIGHT: tl.constexpr, BINS: tl.constexpr, TAIL: tl.constexpr,
          LOW: tl.constexpr, WIDTH: tl.constexpr, HEIGHT: tl.constexpr, SLOPE: tl.constexpr,
          REAL: tl.constexpr):  # fmt: skip
    """The bin of each element: what the formulas and the gradients of its params want to know."""
    heights = at + BINS * shift
    slopes = heights + BINS * shift
    most_width, over_width_sum = _weigh(at, shift, live, BINS, SLOPE[2], REAL)
    most_height, over_height_sum = _weigh(heights, shift, live, BINS, SLOPE[2], REAL)
    zero = tl.zeros_like(most_width)
    width_scale = WIDTH[1] * over_width_sum
    height_scale = HEIGHT[1] * over_height_sum
    index, width_sum, height_sum = zero, zero, zero
    width_before, width_own, height_before, height_own = zero, zero, zero, zero
    for k in range(BINS):
        width = _weight(at + k * shift, most_width, live, SLOPE[2], REAL)[0]
        height = _weight(heights + k * shift, most_height, live, SLOPE[2], REAL)[0]
        if BY_HEIGHT:
            edge = LOW + (HEIGHT[0] * k + height_scale * height_sum)
        else:
            edge = LOW + (WIDTH[0] * k + width_scale * width_sum)
        reached = (folded >= edge) | (k == 0)
        index = tl.where(reached, zero + k, index)
        width_before = tl.where(reached, width_sum, width_before)
        width_own = tl.where(reached, width, width_own)
        height_before = tl.where(reached, height_sum, height_before)
        height_own = tl.where(reached, height, height_own)
        width_sum += width
        height_sum += height
    knot = index.to(tl.int32)
    place0, raw0 = _knot(slopes, knot, shift, live, BINS, TAIL, REAL)
    place1, raw1 = _knot(slopes, knot + 1, shift, live, BINS, TAIL, REAL)
    d0, bend0 = _slope(raw0, SLOPE)
    d1, bend1 = _slope(raw1, SLOPE)
    left = LOW + (WIDTH[0] * index + width_scale * width_before)
    width = WIDTH[0] + width_scale * width_own
    bottom = LOW + (HEIGHT[0] * index + height_scale * height_before)
    height = HEIGHT[0] + height_scale * height_own
    found = (index, width_before, width_own, height_before, height_own, most_width, over_width_sum, most_height,
             over_height_sum, place0, place1, bend0, bend1)  # fmt: skip
    return left, width, bottom, height, d0, d1, found


@triton.jit
def _unit(x):
    return tl.where(x < 0, 0, tl.where(x > 1, 1, x))


@triton.jit
def _fold(x, TAIL: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr):
    v = x
    if TAIL == _CIRCULAR:
        v = x - tl.floor((x - LOW) / (HIGH - LOW)) * (HIGH - LOW)
    return tl.where(v < LOW, LOW, tl.where(v > HIGH, HIGH, v))


@triton.jit
def _root(v, bottom, height, s, d0, d1):
    """(t, 1 - t) at which the spline takes the value v."""
    eta = _unit((v - bottom) / height)
    rest = 1 - eta
    g = d0 * rest - d1 * eta
    rising = g >= 0
    q = tl.abs(g) + tl.sqrt(g * g + 4 * s * s * (eta * rest))
    other = 2 * s * tl.where(rising, eta, rest)
    near, far = other / (q + other), q / (q + other)
    return tl.where(rising, near, far), tl.where(rising, far, near)


@triton.jit
def _forward(x, params, y, sums, rows, size, x_stride, params_stride, shift, begin, end, inner, width_of_board,
             segments, MASK: tl.constexpr, INVERSE: tl.constexpr, BINS: tl.constexpr, TAIL: tl.constexpr,
             LOW: tl.constexpr, HIGH: tl.constexpr, WIDTH: tl.constexpr, HEIGHT: tl.constexpr, SLOPE: tl.constexpr,
             ROWS: tl.constexpr, COLUMNS: tl.constexpr, SEGMENT: tl.constexpr, REAL: tl.constexpr,
             INDEX: tl.constexpr):  # fmt: skip
    row, in_batch, start = _tile(rows, SEGMENT, ROWS, INDEX)
    total = tl.zeros([ROWS, COLUMNS], REAL)
    for at in range(0, SEGMENT, COLUMNS):
        e = (start + at + tl.arange(0, COLUMNS))[None, :]
        moved, _, param = _place(e, begin, end, inner, width_of_board, MASK)
        inside = in_batch & (e < size)
        live = inside & moved
        value = tl.load(x + row * x_stride + e, mask=inside, other=0.0).to(REAL)
        folded = _fold(value, TAIL, LOW, HIGH)
        left, width, bottom, height, d0, d1, _ = _find(
            params + row * params_stride + param, shift, live, folded, INVERSE, BINS, TAIL, LOW, WIDTH, HEIGHT, SLOPE,
            REAL)  # fmt: skip
        s = height / width
        if INVERSE:
            t, r = _root(folded, bottom, height, s, d0, d1)
        else:
            t = _unit((folded - left) / width)
            r = 1 - t
        if TAIL == _BOUNDED:
            r = tl.where(value > HIGH, 0, r)
            t = tl.where(value > HIGH, 1, t)
        den = s * (t * t + r * r) + (d0 + d1) * (t * r)
        slope = (s / den) * (d1 * (t * t) + 2 * s * (t * r) + d0 * (r * r)) * (s / den)
        result = left + width * t if INVERSE else bottom + height * ((s * t * t + d0 * (t * r)) / den)
        outside = (value < LOW) | (value > HIGH)
        if TAIL == _CIRCULAR:
            result = result + (value - folded)
        elif TAIL == _BOUNDED:
            factor = 1 / slope if INVERSE else slope
            result = tl.where(outside, folded, result) + (value - folded) * factor
        else:
            result = tl.where(outside, value, result)
            slope = tl.where(outside, 1, slope)
        total += tl.where(live, tl.log(slope), 0)
        tl.store(y + row * size + e, tl.where(moved, result, value).to(y.dtype.element_ty), mask=inside)
    ladj = tl.sum(total, axis=1)
    rows_here = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tl.store(sums + rows_here * segments + tl.program_id(1), -ladj if INVERSE else ladj, mask=rows_here < rows)


@triton.jit
def _spread(at, to, shift, live, writes, index, largest, over_sum, before, here, weight_before, weight_own,
            SHARE: tl.constexpr, BINS: tl.constexpr, CLIP: tl.constexpr, REAL: tl.constexpr):  # fmt: skip
    """The gradients of BINS logits, from those of the bin's first edge and of its size."""
    mean = (before * weight_before + here * weight_own) * over_sum
    for k in range(BINS):
        own = tl.where(k < index, before, tl.where(k == index, here, 0))
        weight, bend = _weight(at + k * shift, largest, live, CLIP, REAL)
        gradient = SHARE * over_sum * weight * (own - mean) * bend
        tl.store(to + k * shift, tl.where(live, gradient, 0).to(to.dtype.element_ty), mask=writes)


@triton.jit
def _backward(u, params, dy, dladj, dx, dparams, rows, size, param_size, u_stride, params_stride, dy_stride,
              dladj_stride, shift, begin, end, inner, width_of_board, MASK: tl.constexpr, INVERSE: tl.constexpr,
              BINS: tl.constexpr, FREE: tl.constexpr, TAIL: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr,
              WIDTH: tl.constexpr, HEIGHT: tl.constexpr, SLOPE: tl.constexpr, ROWS: tl.constexpr,
              COLUMNS: tl.constexpr, SEGMENT: tl.constexpr, REAL: tl.constexpr, INDEX: tl.constexpr):  # fmt: skip
    row, in_batch, start = _tile(rows, SEGMENT, ROWS, INDEX)
    share = tl.load(dladj + row * dladj_stride, mask=in_batch, other=0.0).to(REAL)
    for at in range(0, SEGMENT, COLUMNS):
        e = (start + at + tl.arange(0, COLUMNS))[None, :]
        moved, has_params, param = _place(e, begin, end, inner, width_of_board, MASK)
        inside = in_batch & (e < size)
        live = inside & moved
        writes = inside & has_params
        value = tl.load(u + row * u_stride + e, mask=inside, other=0.0).to(REAL)
        given = tl.load(dy + row * dy_stride + e, mask=inside, other=0.0).to(REAL)
        folded = _fold(value, TAIL, LOW, HIGH)
        here = params + row * params_stride + param
        there = dparams + row * param_size + param
        left, width, _, height, d0, d1, found = _find(
            here, shift, live, folded, False, BINS, TAIL, LOW, WIDTH, HEIGHT, SLOPE, REAL)  # fmt: skip
        index, width_before, width_own, height_before, height_own = found[0], found[1], found[2], found[3], found[4]
        s = height / width
        t = _unit((folded - left) / width)
        r = 1 - t
        if TAIL == _BOUNDED:
            r = tl.where(value > HIGH, 0, r)
            t = tl.where(value > HIGH, 1, t)
        tt, rr, tr = t * t, r * r, t * r
        den = s * (tt + rr) + (d0 + d1) * tr
        num = d1 * tt + 2 * s * tr + d0 * rr
        slope = (s / den) * num * (s / den)
        turn = 2 * ((d1 * t + s * (r - t) - d0 * r) / num - (d0 + d1 - 2 * s) * (r - t) / den)
        outside = (value < LOW) | (value > HIGH)
        if TAIL == _LINEAR:
            slope = tl.where(outside, 1, slope)
        bend = turn if TAIL == _CIRCULAR else tl.where(outside, 0, turn)
        if INVERSE:
            du = (given - share * (bend / width)) / slope
            g, h = -du, -share
        else:
            du = given * slope + share * (bend / width)
            g, h = given, share
        inner_g = g
        if TAIL == _LINEAR:
            h = tl.where(outside, 0, h)
            inner_g = tl.where(outside, 0, g)
        elif TAIL == _BOUNDED:
            h = tl.where(outside, h + g * (value - folded) * slope, h)
            inner_g = tl.where(outside, 0, g)
        up = inner_g * height / (den * den)
        ds = up * tr * (d1 * tt - d0 * rr) + 2 * h * (1 / s + tr / num - (tt + rr) / den)
        dd0 = up * tr * r * (s * r + d1 * t) + h * (rr / num - 2 * tr / den)
        dd1 = h * (tt / num - 2 * tr / den) - up * tr * t * (s * t + d0 * r)
        dt = up * s * num + h * bend
        eta = (s * tt + d0 * tr) / den
        _spread(here, there, shift, live, writes, index, found[5], found[6], -dt / width, -(ds * s + dt * t) / width,
                width_before, width_own, WIDTH[1], BINS, SLOPE[2], REAL)  # fmt: skip
        _spread(here + BINS * shift, there + BINS * shift, shift, live, writes, index, found[7], found[8], inner_g,
                inner_g * eta + ds / width, height_before, height_own, HEIGHT[1], BINS, SLOPE[2], REAL)  # fmt: skip
        for j in range(FREE):
            gradient = tl.where(found[9] == j, dd0 * found[11], 0) + tl.where(found[10] == j, dd1 * found[12], 0)
            tl.store(there + (2 * BINS + j) * shift, tl.where(live, gradient, 0).to(dparams.dtype.element_ty),
                     mask=writes)  # fmt: skip
        tl.store(dx + row * size + e, tl.where(moved, du, given).to(dx.dtype.element_ty), mask=inside)


# ---- launches ------------------------------------------------------------------------------------------------------


def _constants(
    bins: int, tails: int, low: float, high: float, min_width: float, min_height: float, min_slope: float,
    softclip: float,
) -> dict[str, Any]:  # fmt: skip
    """What the kernels know when compiled: floor and share of a bin's sizes; of a slope floor, offset, 1 / softclip."""
    size = high - low
    return {
        "BINS": bins,
        "TAIL": tails,
        "LOW": low,
        "HIGH": high,
        "WIDTH": (size * min_width, size * (1 - bins * min_width)),
        "HEIGHT": (size * min_height, size * (1 - bins * min_height)),
        "SLOPE": (min_slope, math.log(math.expm1(1 - min_slope)), 1 / softclip if softclip else 0.0),
    }


def _tiling(size: int, per_element: int) -> dict[str, Any]:
    columns = min(triton.next_power_of_2(max(size, 1)), TILE)
    steps = min(STEPS, triton.cdiv(max(size, 1), columns))
    index = tl.int32 if size * per_element < 2**31 else tl.int64
    return {"ROWS": TILE // columns, "COLUMNS": columns, "SEGMENT": columns * steps, "INDEX": index}


def _event(shape: torch.Size, mask: int, interleaved: bool, per_element: int) -> tuple[dict[str, int], tuple[int, ...]]:
    """As `affine_coupling.layout`, for as many params an element."""
    numbers, kind = layout(shape, mask, BOUNDS["none"], interleaved)
    numbers["width_of_board"] = numbers.pop("width")
    return numbers, (*kind[:4], per_element if interleaved else 1)


def forward(
    x: Tensor, params: Tensor, mask: int, bins: int, tails: int, low: float, high: float, min_width: float,
    min_height: float, min_slope: float, softclip: float, interleaved: bool, inverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(y, ladj) of `pyflowk.ops.rq_spline`."""
    shape = (bins, tails, low, high, min_width, min_height, min_slope, softclip)
    _check(x, params, mask, *shape, interleaved, inverse)
    whole, params = dense_rows(x), dense_rows(params)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    per_element = 2 * bins + free_slopes(bins, tails)
    numbers, kind = _event(x.shape, mask, interleaved, per_element)
    rows, size = x.shape[0], x.shape[1:].numel()
    tile, (dtype, real) = _tiling(size, per_element), accumulator(x)
    segments = max(triton.cdiv(size, tile["SEGMENT"]), 1)
    sums = torch.empty(rows, segments, dtype=dtype, device=x.device)
    if rows:
        launch(
            _forward, x, segments, tile, whole, params, y, sums, rows, size, row_stride(whole), row_stride(params),
            segments=segments, **numbers, MASK=kind, INVERSE=bool(inverse), REAL=real, **_constants(*shape),
        )  # fmt: skip
    return y, sums[:, 0] if segments == 1 else sums.sum(1)


def backward(
    x: Tensor, y: Tensor, params: Tensor, dy: Tensor, dladj: Tensor, mask: int, bins: int, tails: int, low: float,
    high: float, min_width: float, min_height: float, min_slope: float, softclip: float, interleaved: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(dx, dparams) at the spline's argument, x or the inverse's y, from the gradients of y and ladj."""
    shape = (bins, tails, low, high, min_width, min_height, min_slope, softclip)
    u = y if inverse else x
    _check(u, params, mask, *shape, interleaved, inverse)
    real = accumulator(u)[1]
    require_gradients("rq_spline", u, dy, dladj)
    u, params, dy = dense_rows(u), dense_rows(params), dense_rows(dy)
    dx = torch.empty_like(u, memory_format=torch.contiguous_format)
    dparams = torch.empty_like(params, memory_format=torch.contiguous_format)
    free = free_slopes(bins, tails)
    numbers, kind = _event(u.shape, mask, interleaved, 2 * bins + free)
    rows, size = u.shape[0], u.shape[1:].numel()
    tile = _tiling(size, 2 * bins + free)
    if rows and size:
        launch(
            _backward, u, triton.cdiv(size, tile["SEGMENT"]), tile, u, params, dy, dladj, dx, dparams, rows, size,
            dparams[0].numel(), row_stride(u), row_stride(params), row_stride(dy), dladj.stride(0), **numbers,
            MASK=kind, INVERSE=bool(inverse), FREE=free, REAL=real, **_constants(*shape),
        )  # fmt: skip
    return dx, dparams
