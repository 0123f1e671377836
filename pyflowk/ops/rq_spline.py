"""Monotone rational-quadratic spline with log-determinant: one fused pass, both directions, one for the gradient."""

from __future__ import annotations

import math

from torch import Tensor

from ._router import FusedOp
from .affine_coupling import _STATE_DTYPES
from .dtypes import state_dtype
from .masks import mask_code, slices
from .rq_spline_formula import TAILS, SplineConfig, free_slopes, spline_backward_formula, spline_formula

__all__ = ["TAILS", "rq_spline", "spline_params"]

MOST_BINS = 64
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
    return 2 * bins + free_slopes(bins, tails_code(tails))


def tails_code(tails: str) -> int:
    """Return the code of the tails of this name; ValueError lists the names there are."""
    if tails not in TAILS:
        raise ValueError(f"tails: expected one of {', '.join(TAILS)}; got {tails!r}")
    return TAILS[tails]


def _check(x: Tensor, params: Tensor, *config: object) -> None:
    """What `csrc/bind/rq_spline.cpp` checks, for the paths that do not go through it."""
    c = SplineConfig(*config)  # type: ignore[arg-type]
    if x.dtype not in _STATE_DTYPES or params.dtype not in (x.dtype, *_STATE_DTYPES[x.dtype]):
        raise TypeError(
            "rq_spline: x must be float32, float64, bfloat16 or float16 and params of x's dtype (or 16 bits beside a "
            f"float32 x); got x {x.dtype}, params {params.dtype}"
        )
    if x.device != params.device:
        raise ValueError(f"rq_spline: x and params must be on one device; got {x.device} and {params.device}")
    if x.ndim < 2 or (c.board and x.ndim != 4):
        raise ValueError(f"rq_spline: x must be {'(B, C, H, W)' if c.board else '(B, C, *rest)'}; got {tuple(x.shape)}")
    check_spline("rq_spline", c.bins, c.low, c.high, c.min_width, c.min_height, c.min_slope, c.softclip)
    moved = x.shape[1] if c.board else len(range(x.shape[1])[slices(x.shape[1], c.mask)[1]])
    expected = (x.shape[0], moved * (2 * c.bins + free_slopes(c.bins, c.tails)), *x.shape[2:])
    if params.shape != expected:
        raise ValueError(
            f"rq_spline: params must be {expected} for x {tuple(x.shape)} under this mask; got {tuple(params.shape)}"
        )


def check_spline(
    op: str, bins: int, low: float, high: float, min_width: float, min_height: float, min_slope: float, softclip: float
) -> None:
    """Raise ValueError, in the name of `op`, unless these numbers describe a spline."""
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

spline_backward_op = FusedOp(
    "rq_spline_backward",
    f"(Tensor x, Tensor y, Tensor params, Tensor dy, Tensor dladj, {_CONFIG}) -> (Tensor, Tensor)",
    formula=spline_backward_formula,
    fake=_fake_backward,
)
spline_op = FusedOp(
    "rq_spline",
    f"(Tensor x, Tensor params, {_CONFIG}) -> (Tensor, Tensor)",
    formula=spline_formula,
    check=_check,
    fake=_fake,
    saved=lambda x, params, y, ladj: (x, y, params),
    backward=spline_backward_op,
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

    >>> import torch
    >>> x = torch.tensor([[0.5, -1.0], [2.0, 7.0]])
    >>> y, ladj = rq_spline(x, torch.zeros(2, 2 * spline_params(8)), mask="all")
    >>> torch.allclose(y, x, atol=1e-6), ladj.shape
    (True, torch.Size([2]))
    """
    low, high = interval
    config = (
        mask_code(mask, swap), bins, tails_code(tails), float(low), float(high), min_width, min_height, min_slope,
        float(softclip), interleaved, inverse,
    )  # fmt: skip
    return spline_op((x, params, *config))
