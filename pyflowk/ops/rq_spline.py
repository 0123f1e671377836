"""Monotone rational-quadratic spline with log-determinant: one fused pass, both directions, one for the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ._router import FusedOp
from .affine_coupling import _STATE_DTYPES, _moved_part, _put_back
from .dtypes import state_dtype
from .masks import MASKS, checkerboard, mask_code, slices

__all__ = ["TAILS", "rq_spline", "spline_params"]

#: name -> code of the behaviour at the ends of the interval, in `csrc/math/spline.h`.
TAILS = {"linear": 0, "bounded": 1, "circular": 2}
MOST_BINS = 64
#: a slope beyond this is this, so that no params make an infinity of it.
STEEPEST = 1e6
LARGEST_SOFTCLIP = 30.0  # kLargestSoftclip of csrc/math/spline.h


def spline_params(bins: int, tails: str = "linear") -> int:
    """Count the parameters of an element: `bins` widths, `bins` heights, and a slope for every free knot.

    Linear tails leave bins - 1 slopes free, a bounded interval all bins + 1, a circle bins (its ends are one knot).
    ValueError for unknown tails or bins outside 2..64.

    >>> spline_params(8), spline_params(8, "bounded"), spline_params(8, "circular")
    (23, 25, 24)
    """
    if not (isinstance(bins, int) and 2 <= bins <= MOST_BINS):
        raise ValueError(f"bins: expected a whole number in 2..{MOST_BINS}; got {bins!r}")
    return 2 * bins + _free_slopes(bins, _tails_code(tails))


def _tails_code(tails: str) -> int:
    if tails not in TAILS:
        raise ValueError(f"tails: expected one of {', '.join(TAILS)}; got {tails!r}")
    return TAILS[tails]


def _free_slopes(bins: int, tails: int) -> int:
    return (bins - 1, bins + 1, bins)[tails]


# ---- the formula: bins along dimension 1, everything else as the transformed part of x ------------------------------


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
class _Config:
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


def _spread(params: Tensor, c: _Config, dtype: torch.dtype) -> _Bins:
    kinds = _by_kind(params.to(dtype), 2 * c.bins + _free_slopes(c.bins, c.tails), c.interleaved)
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


def _piece_at(value: Tensor, edges: Tensor, b: _Bins, c: _Config) -> _Piece:
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


def _slope(raw: Tensor, c: _Config) -> Tensor:
    if c.softclip:
        return torch.exp(raw * _clip_factor(raw, c.softclip))
    raw = (raw + _slope_offset(c.min_slope)).clamp(max=STEEPEST)
    return c.min_slope + raw.clamp(min=0) + torch.log1p(torch.exp(-raw.abs()))


def _slope_gradient(raw: Tensor, c: _Config) -> Tensor:
    if c.softclip:
        return _slope(raw, c) * _clip_factor(raw, c.softclip) ** 2
    raw = raw + _slope_offset(c.min_slope)
    return torch.where(raw > STEEPEST, 0, torch.sigmoid(raw))


def _fold(value: Tensor, c: _Config) -> Tensor:
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


def _at_the_end(value: Tensor, theta: Tensor, phi: Tensor, c: _Config) -> tuple[Tensor, Tensor]:
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


def _transformed(x: Tensor, params: Tensor, c: _Config) -> tuple[Tensor, Tensor, Tensor | None]:
    """(x, params, still) on the transformed part, in the accumulator's type; zeros where a board leaves x alone."""
    dtype = state_dtype(x)
    if not c.board:
        return _moved_part(x, c.mask).to(dtype), params, None
    still = ~checkerboard(x, c.mask)
    return x.to(dtype).masked_fill(still, 0), params.masked_fill(still, 0), still


def _formula(x: Tensor, params: Tensor, *config: object) -> tuple[Tensor, Tensor]:
    """The op in plain torch: the reference of every kernel, and what Inductor and functorch see."""
    c = _Config(*config)  # type: ignore[arg-type]
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


def _backward_formula(
    x: Tensor, y: Tensor, params: Tensor, dy: Tensor, dladj: Tensor, *config: object
) -> tuple[Tensor, Tensor]:
    """Gradients at the spline's argument u (x, or y of the inverse), by the inverse function theorem there.

    With f(u) the spline and L = log f'(u), the inverse's gradients g of u and h of -L are those of f with
    -(g - h dL/du) / f' in place of dy and -h in place of dladj.
    """
    c = _Config(*config)  # type: ignore[arg-type]
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


# ---- the op ----------------------------------------------------------------------------------------------------------


def _check(x: Tensor, params: Tensor, *config: object) -> None:
    """What `csrc/bind/rq_spline.cpp` checks, for the paths that do not go through it."""
    c = _Config(*config)  # type: ignore[arg-type]
    if x.dtype not in _STATE_DTYPES or params.dtype not in (x.dtype, *_STATE_DTYPES[x.dtype]):
        raise TypeError(
            "rq_spline: x must be float32, float64, bfloat16 or float16 and params of x's dtype (or 16 bits beside a "
            f"float32 x); got x {x.dtype}, params {params.dtype}"
        )
    if x.device != params.device:
        raise ValueError(f"rq_spline: x and params must be on one device; got {x.device} and {params.device}")
    if x.ndim < 2 or (c.board and x.ndim != 4):
        raise ValueError(f"rq_spline: x must be {'(B, C, H, W)' if c.board else '(B, C, *rest)'}; got {tuple(x.shape)}")
    _check_spline("rq_spline", c.bins, c.low, c.high, c.min_width, c.min_height, c.min_slope, c.softclip)
    moved = x.shape[1] if c.board else len(range(x.shape[1])[slices(x.shape[1], c.mask)[1]])
    expected = (x.shape[0], moved * (2 * c.bins + _free_slopes(c.bins, c.tails)), *x.shape[2:])
    if params.shape != expected:
        raise ValueError(
            f"rq_spline: params must be {expected} for x {tuple(x.shape)} under this mask; got {tuple(params.shape)}"
        )


def _check_spline(
    op: str, bins: int, low: float, high: float, min_width: float, min_height: float, min_slope: float, softclip: float
) -> None:
    if not 2 <= bins <= MOST_BINS:
        raise ValueError(f"{op}: bins must be in 2..{MOST_BINS}; got {bins}")
    if not (high > low and math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{op}: the interval must be finite and not empty; got [{low}, {high}]")
    if not 0 <= softclip <= LARGEST_SOFTCLIP:
        raise ValueError(f"{op}: softclip must be in [0, {LARGEST_SOFTCLIP:g}]; got {softclip}")
    for name, least in (("min_width", min_width), ("min_height", min_height)):
        if not ((least > 0 or (least == 0 and softclip > 0)) and least * bins < 1):
            raise ValueError(f"{op}: {name} must be in (0, 1 / bins); got {least} with {bins} bins")
    if not 0 < min_slope < 1:
        raise ValueError(f"{op}: min_slope must be in (0, 1); got {min_slope}")


def _fake(x: Tensor, params: Tensor, *config: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:1], dtype=state_dtype(x))


def _fake_backward(x: Tensor, y: Tensor, params: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), params.new_empty(params.shape)


_CONFIG = (
    "int mask, int bins, int tails, float low, float high, float min_width, float min_height, float min_slope, "
    "float softclip, bool interleaved, bool inverse"
)

_op = FusedOp(
    "rq_spline",
    f"(Tensor x, Tensor params, {_CONFIG}) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=_fake,
    saved=lambda x, params, y, ladj: (x, y, params),
    backward=FusedOp(
        "rq_spline_backward",
        f"(Tensor x, Tensor y, Tensor params, Tensor dy, Tensor dladj, {_CONFIG}) -> (Tensor, Tensor)",
        formula=_backward_formula,
        fake=_fake_backward,
    ),
)


def rq_spline(
    x: Tensor,
    params: Tensor,
    *,
    bins: int = 8,
    interval: tuple[float, float] = (-3.0, 3.0),
    tails: str = "linear",
    mask: str = "half",
    swap: bool = False,
    min_width: float = 1e-3,
    min_height: float = 1e-3,
    min_slope: float = 1e-3,
    softclip: float = 0.0,
    interleaved: bool = False,
    inverse: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Bend one part of x by monotone splines from a conditioner's output, and return the log-determinant.

    The interval [low, high] is cut into K bins along x and along y, of sizes (high - low) (m + (1 - K m) softmax_k)
    with m the least share. In a bin of width w, height h and s = h / w, with t = (x - left) / w and d0, d1 the slopes
    at its ends, y = bottom + h (s t^2 + d0 t (1 - t)) / (s + (d0 + d1 - 2 s) t (1 - t)). A slope is
    m + softplus(raw + c) with c such that raw = 0 is slope 1: zero params are the identity. With a `softclip` l, a
    logit u counts as u / (1 + 2 abs(u) / l), and a slope is exp(raw / (1 + abs(raw) / l)), within (e^-l, e^l).

    Args:
        x: (B, C, *rest), float32, float64, bfloat16 or float16, any strides.
        params: the conditioner's output as it is, (B, P Ct, *rest) with Ct transformed channels and
            P = `spline_params(bins, tails)`: the logits of K widths and of K heights, then the raw slopes of the free
            knots from left to right. By default in chunks, number p of channel c in channel p Ct + c, which is the
            faster layout; interleaved=True groups them by element, in channel c P + p, as (B, D, P) flattened does.
            dtype of x, or bfloat16/float16 beside a float32 x.
        bins: K, 2..64.
        interval: (low, high), of x and of y.
        tails: "linear": the identity outside, ladj 0, slopes 1 at both ends (P = 3 K - 1); "bounded": all slopes are
            free (P = 3 K + 1) and the spline goes on straight outside, so that rounding at the ends harms nobody;
            "circular": both ends have one slope (P = 3 K), and outside the map repeats, y(x + high - low) =
            y(x) + high - low.
        mask, swap: which part is transformed, as in `affine_coupling`; "all" for every element.
        min_width, min_height: least share of a bin, in (0, 1 / bins), or 0 beside a softclip. min_slope: least slope,
            in (0, 1); without effect beside a softclip.
        softclip: l, up to 30, for flows that were trained so (zuko's have -log of their `slope`, by default 6.9, and no
            least shares); 0: none.

    Returns:
        y, shaped as x; ladj (B,) in nats, float32 (float64 for a float64 x).

    Raises:
        ValueError, TypeError: bins, interval, tails, mask or a least size out of range; shapes, dtypes or devices that
            do not fit, with both named.

    No finite params make NaN, in either direction: the argument is clamped into its bin before anything is evaluated,
    numerator, denominator and root are sums of positive terms, and slopes end at a million. A logit of +inf is NaN, as
    in softmax.
    Cost: one pass over memory in either direction, the backward one more; 2 K exponentials an element.
    Sources: Durkan, Bekasov, Murray, Papamakarios 2019 (arXiv:1906.04032); circles: Rezende et al. 2020
    (arXiv:2002.02428).

    >>> x = torch.tensor([[0.5, -1.0], [2.0, 7.0]])
    >>> y, ladj = rq_spline(x, torch.zeros(2, 2 * spline_params(8)), mask="all")
    >>> torch.allclose(y, x, atol=1e-6), ladj.shape
    (True, torch.Size([2]))
    """
    low, high = interval
    config = (
        mask_code(mask, swap), bins, _tails_code(tails), float(low), float(high), min_width, min_height, min_slope,
        float(softclip), interleaved, inverse,
    )  # fmt: skip
    return _op((x, params, *config))
