"""The monotone rational-quadratic spline in plain torch, and its gradient: the reference of the kernels.

Bins lie along dimension 1, everything else as the transformed part of x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .affine_coupling import _moved_part, _put_back
from .dtypes import state_dtype
from .masks import MASKS, checkerboard

__all__ = ["STEEPEST", "TAILS", "SplineConfig", "free_slopes", "spline_backward_formula", "spline_formula"]

#: name -> code of the behaviour at the ends of the interval, in `csrc/math/spline.h`.
TAILS = {"linear": 0, "bounded": 1, "circular": 2}
#: a slope beyond this is this, so that no params make an infinity of it.
STEEPEST = 1e6


def free_slopes(bins: int, tails: int) -> int:
    """Count the slopes that the tails of this code leave free."""
    return (bins - 1, bins + 1, bins)[tails]


@dataclass
class _Bins:
    """What the formula needs of the spline of each element, in the accumulator's type, bins along dimension 1."""

    logits: Tensor  # of widths and heights
    width_shares: Tensor  # softmax of the logits
    height_shares: Tensor
    raw_slopes: Tensor  # of all bins + 1 knots
    lefts: Tensor
    bottoms: Tensor


@dataclass
class _Piece:
    """The one bin that an element fell into."""

    index: Tensor  # (B, 1, ...)
    left: Tensor
    bottom: Tensor
    width: Tensor
    height: Tensor
    raw0: Tensor
    raw1: Tensor
    d0: Tensor
    d1: Tensor

    @property
    def s(self) -> Tensor:
        return self.height / self.width


@dataclass(frozen=True)
class SplineConfig:
    mask: int
    bins: int
    tails: int
    low: float
    high: float
    min_width: float
    min_height: float
    min_slope: float
    softclip: float  # 0: none
    interleaved: bool
    inverse: bool

    @property
    def size(self) -> float:
        return self.high - self.low

    @property
    def board(self) -> bool:
        return self.mask & ~1 == MASKS["checkerboard"]


def _by_kind(params: Tensor, per_element: int, interleaved: bool) -> Tensor:
    """(B, P Ct, *rest) as (B, P, Ct, *rest)."""
    count = params.shape[1] // per_element
    if interleaved:
        return params.reshape(params.shape[0], count, per_element, *params.shape[2:]).transpose(1, 2)
    return params.reshape(params.shape[0], per_element, count, *params.shape[2:])


def _edges(shares: Tensor, low: float, size: float, least: float) -> Tensor:
    """The first edge of every bin."""
    bins = shares.shape[1]
    before = torch.cumsum(shares, 1) - shares
    index = torch.arange(bins, device=shares.device, dtype=shares.dtype).reshape(-1, *[1] * (shares.ndim - 2))
    return low + size * (least * index + (1 - bins * least) * before)


def _spread(params: Tensor, c: SplineConfig, dtype: torch.dtype) -> _Bins:
    kinds = _by_kind(params.to(dtype), 2 * c.bins + free_slopes(c.bins, c.tails), c.interleaved)
    logits, slopes = kinds.split([2 * c.bins, kinds.shape[1] - 2 * c.bins], 1)
    clipped = logits * _clip_factor(logits, c.softclip / 2) if c.softclip else logits
    widths, heights = clipped.split(c.bins, 1)
    if c.tails == TAILS["linear"]:
        end = torch.zeros_like(widths[:, :1])
        slopes = torch.cat([end, slopes, end], 1)
    elif c.tails == TAILS["circular"]:
        slopes = torch.cat([slopes, slopes[:, :1]], 1)
    widths, heights = _softmax(widths), _softmax(heights)
    lefts = _edges(widths, c.low, c.size, c.min_width)
    return _Bins(logits, widths, heights, slopes, lefts, _edges(heights, c.low, c.size, c.min_height))


def _softmax(logits: Tensor) -> Tensor:
    # not torch's, whose forward derivative writes over what its backward needs
    weights = torch.exp(logits - logits.detach().amax(1, keepdim=True))
    return weights / weights.sum(1, keepdim=True)


def _piece_at(value: Tensor, edges: Tensor, b: _Bins, c: SplineConfig) -> _Piece:
    index = (value.unsqueeze(1) >= edges[:, 1:]).sum(1, keepdim=True)

    def pick(t: Tensor, index: Tensor = index) -> Tensor:
        return t.gather(1, index).squeeze(1)

    raw0, raw1 = pick(b.raw_slopes), pick(b.raw_slopes, index + 1)
    width = c.size * (c.min_width + (1 - c.bins * c.min_width) * pick(b.width_shares))
    height = c.size * (c.min_height + (1 - c.bins * c.min_height) * pick(b.height_shares))
    return _Piece(
        index, pick(b.lefts), pick(b.bottoms), width, height, raw0, raw1,
        _slope(raw0, c), _slope(raw1, c),
    )  # fmt: skip


def _clip_factor(raw: Tensor, limit: float) -> Tensor:
    """The factor of a soft clip: raw / (1 + |raw| / limit) is raw times it, and the slope is its square."""
    return 1 / (1 + (raw * (1 / limit)).abs())


def _slope_offset(least: float) -> float:
    """Where softplus is 1 - least, so that a raw slope of zero is a slope of one."""
    return math.log(math.expm1(1 - least))


def _slope(raw: Tensor, c: SplineConfig) -> Tensor:
    if c.softclip:
        return torch.exp(raw * _clip_factor(raw, c.softclip))
    raw = (raw + _slope_offset(c.min_slope)).clamp(max=STEEPEST)
    return c.min_slope + raw.clamp(min=0) + torch.log1p(torch.exp(-raw.abs()))


def _slope_gradient(raw: Tensor, c: SplineConfig) -> Tensor:
    if c.softclip:
        return _slope(raw, c) * _clip_factor(raw, c.softclip) ** 2
    raw = raw + _slope_offset(c.min_slope)
    return torch.where(raw > STEEPEST, 0, torch.sigmoid(raw))


def _fold(value: Tensor, c: SplineConfig) -> Tensor:
    """The value inside the interval at which the spline is evaluated: clamped, or wrapped on a circle."""
    if c.tails == TAILS["circular"]:
        value = value - torch.floor((value - c.low) / c.size) * c.size
    return value.clamp(c.low, c.high)


def _denominator(s: Tensor, d0: Tensor, d1: Tensor, theta: Tensor, phi: Tensor) -> Tensor:
    return s * (theta * theta + phi * phi) + (d0 + d1) * (theta * phi)


def _numerator(s: Tensor, d0: Tensor, d1: Tensor, theta: Tensor, phi: Tensor) -> Tensor:
    return d1 * (theta * theta) + 2 * s * (theta * phi) + d0 * (phi * phi)


def _derivative(p: _Piece, theta: Tensor, phi: Tensor) -> Tensor:
    s = p.s
    ratio = s / _denominator(s, p.d0, p.d1, theta, phi)
    return ratio * _numerator(s, p.d0, p.d1, theta, phi) * ratio


def _position(value: Tensor, p: _Piece) -> tuple[Tensor, Tensor]:
    theta = ((value - p.left) / p.width).clamp(0, 1)
    return theta, 1 - theta


def _at_the_end(value: Tensor, theta: Tensor, phi: Tensor, c: SplineConfig) -> tuple[Tensor, Tensor]:
    """Beyond the upper end the slope is that of the very end, where rounding must not put theta below 1."""
    if c.tails != TAILS["bounded"]:
        return theta, phi
    beyond = value > c.high
    return theta.masked_fill(beyond, 1), phi.masked_fill(beyond, 0)


def _root(value: Tensor, p: _Piece) -> tuple[Tensor, Tensor]:
    """Where in the bin the spline takes this value: theta and 1 - theta, from sums of positive terms alone."""
    eta = ((value - p.bottom) / p.height).clamp(0, 1)
    rest, s = 1 - eta, p.s
    g = p.d0 * rest - p.d1 * eta
    q = g.abs() + torch.sqrt(g * g + 4 * s * s * (eta * rest))
    rising = g >= 0
    other = 2 * s * torch.where(rising, eta, rest)
    small, large = other / (q + other), q / (q + other)
    return torch.where(rising, small, large), torch.where(rising, large, small)


def _transformed(x: Tensor, params: Tensor, c: SplineConfig) -> tuple[Tensor, Tensor, Tensor | None]:
    """(x, params, still) on the transformed part, in the accumulator's type; zeros where a board leaves x alone."""
    dtype = state_dtype(x)
    if not c.board:
        return _moved_part(x, c.mask).to(dtype), params, None
    still = ~checkerboard(x, c.mask)
    return x.to(dtype).masked_fill(still, 0), params.masked_fill(still, 0), still


def spline_formula(x: Tensor, params: Tensor, *config: object) -> tuple[Tensor, Tensor]:
    """The op in plain torch: the reference of every kernel, and what Inductor and functorch see."""
    c = SplineConfig(*config)  # type: ignore[arg-type]
    part, params, still = _transformed(x, params, c)
    b = _spread(params, c, part.dtype)
    inside = _fold(part, c)
    p = _piece_at(inside, b.bottoms if c.inverse else b.lefts, b, c)
    if c.inverse:
        theta, phi = _at_the_end(part, *_root(inside, p), c)
        moved = p.left + p.width * theta
    else:
        theta, phi = _at_the_end(part, *_position(inside, p), c)
        eta = p.s * theta * theta + p.d0 * (theta * phi)
        moved = p.bottom + p.height * (eta / _denominator(p.s, p.d0, p.d1, theta, phi))
    slope = _derivative(p, theta, phi)
    log_slope = torch.log(slope)
    outside = (part < c.low) | (part > c.high)
    if c.tails == TAILS["linear"]:
        moved, log_slope = torch.where(outside, part, moved), log_slope.masked_fill(outside, 0)
    elif c.tails == TAILS["bounded"]:  # the ends are mapped to the ends
        moved = torch.where(outside, inside, moved) + (part - inside) * (1 / slope if c.inverse else slope)
    else:
        moved = moved + (part - inside)
    if still is not None:
        moved, log_slope = torch.where(still, x.to(moved.dtype), moved), log_slope.masked_fill(still, 0)
    ladj = log_slope.flatten(1).sum(1)
    return _put_back(x, moved.to(x.dtype), c.mask), -ladj if c.inverse else ladj


def spline_backward_formula(
    x: Tensor, y: Tensor, params: Tensor, dy: Tensor, dladj: Tensor, *config: object
) -> tuple[Tensor, Tensor]:
    """Gradients at the spline's argument u (x, or y of the inverse), by the inverse function theorem there.

    With f(u) the spline and L = log f'(u), the inverse's gradients g of u and h of -L are those of f with
    -(g - h dL/du) / f' in place of dy and -h in place of dladj.
    """
    c = SplineConfig(*config)  # type: ignore[arg-type]
    u, params, still = _transformed(y if c.inverse else x, params, c)
    dtype = u.dtype
    g = _moved_part(dy, c.mask).to(dtype)
    h = dladj.to(dtype).reshape(-1, *[1] * (x.ndim - 1)).expand_as(g)
    if still is not None:
        g, h = g.masked_fill(still, 0), h.masked_fill(still, 0)
    b = _spread(params, c, dtype)
    inside = _fold(u, c)
    p = _piece_at(inside, b.lefts, b, c)
    theta, phi = _at_the_end(u, *_position(inside, p), c)
    s, d0, d1, both = p.s, p.d0, p.d1, theta * phi
    den, num = _denominator(s, d0, d1, theta, phi), _numerator(s, d0, d1, theta, phi)
    slope = _derivative(p, theta, phi)
    by_theta = 2 * (d1 * theta + s * (phi - theta) - d0 * phi) / num - 2 * (d0 + d1 - 2 * s) * (phi - theta) / den
    outside = (u < c.low) | (u > c.high)
    straight = outside if c.tails != TAILS["circular"] else torch.zeros_like(outside)
    if c.tails == TAILS["linear"]:
        slope = torch.where(outside, 1, slope)
    turn = torch.where(straight, 0, by_theta / p.width)  # dL / du
    if c.inverse:
        du = (g - h * turn) / slope
        g, h = -du, -h
    else:
        du = g * slope + h * turn
    if c.tails == TAILS["linear"]:
        h = torch.where(outside, 0, h)
    elif c.tails == TAILS["bounded"]:
        h = torch.where(outside, h + g * (u - inside) * slope, h)
    gv = torch.where(straight, 0, g)

    up = gv * p.height * both / (den * den)
    ds = up * (d1 * theta * theta - d0 * phi * phi) + 2 * h * (
        1 / s + both / num - (theta * theta + phi * phi) / den
    )  # fmt: skip
    dd0 = up * phi * (s * phi + d1 * theta) + h * (phi * phi / num - 2 * both / den)
    dd1 = -up * theta * (s * theta + d0 * phi) + h * (theta * theta / num - 2 * both / den)
    dtheta = gv * p.height * s * num / (den * den) + torch.where(straight, 0, h * by_theta)
    eta = (s * theta * theta + d0 * both) / den
    dleft, dwidth = -dtheta / p.width, -(ds * s + dtheta * theta) / p.width
    dwidths = _softmax_gradient(b.width_shares, p.index, dleft, dwidth, c.size * (1 - c.bins * c.min_width))
    dheights = _softmax_gradient(
        b.height_shares, p.index, gv, gv * eta + ds / p.width, c.size * (1 - c.bins * c.min_height)
    )
    dlogits = torch.cat([dwidths, dheights], 1)
    if c.softclip:
        dlogits = dlogits * _clip_factor(b.logits, c.softclip / 2) ** 2
    zeros = torch.zeros_like(b.raw_slopes)
    first = (dd0 * _slope_gradient(p.raw0, c)).unsqueeze(1)
    second = (dd1 * _slope_gradient(p.raw1, c)).unsqueeze(1)
    dslopes = zeros.scatter(1, p.index, first) + zeros.scatter(1, p.index + 1, second)
    if c.tails == TAILS["linear"]:
        dslopes = dslopes[:, 1:-1]
    elif c.tails == TAILS["circular"]:
        dslopes = torch.cat([dslopes[:, :1] + dslopes[:, -1:], dslopes[:, 1:-1]], 1)
    kinds = torch.cat([dlogits, dslopes], 1)
    if still is not None:
        du, kinds = torch.where(still, dy.to(dtype), du), kinds.masked_fill(still, 0)
    dparams = (kinds.transpose(1, 2) if c.interleaved else kinds).reshape(params.shape)
    return _put_back(dy, du.to(dy.dtype), c.mask), dparams.to(params.dtype)


def _softmax_gradient(shares: Tensor, index: Tensor, before: Tensor, here: Tensor, scale: float) -> Tensor:
    """From the gradients of a bin's first edge and of its size to those of all logits."""
    number = torch.arange(shares.shape[1], device=shares.device).reshape(-1, *[1] * (shares.ndim - 2))
    before, here = before.unsqueeze(1), here.unsqueeze(1)
    each = torch.where(number < index, before, torch.where(number == index, here, 0))
    return scale * shares * (each - (shares * each).sum(1, keepdim=True))
