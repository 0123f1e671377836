"""Normalised tokens, scaled and shifted by what their event says (adaLN), with tangents: one pass over memory each."""

from __future__ import annotations

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING, state_dtype

__all__ = ["modulated_norm", "modulated_norm_with_tangents"]


def _normed(x: Tensor, rms: bool, eps: float) -> tuple[Tensor, Tensor]:
    """n of mean 0 (unless `rms`) and mean square 1, and the rate that made it so."""
    wide = x.to(state_dtype(x))
    if not rms:
        wide = wide - wide.mean(-1, keepdim=True)
    rate = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return wide * rate, rate


def _through_norm(v: Tensor, n: Tensor, rate: Tensor, rms: bool) -> Tensor:
    """The norm's Jacobian times v: it is symmetric, so tangents and gradients pass it alike."""
    rest = v - n * (v * n).mean(-1, keepdim=True)
    return rate * (rest if rms else rest - v.mean(-1, keepdim=True))


def _beside(params: Tensor, x: Tensor) -> Tensor:
    """What an event says, (..., C), beside its tokens (..., T, C), in the type of their arithmetic."""
    return params.to(state_dtype(x)).unsqueeze(-2)


def _formula(x: Tensor, scale: Tensor, shift: Tensor, rms: bool, eps: float) -> tuple[Tensor]:
    """The op in plain torch: the reference of the kernels, and what Inductor and functorch see."""
    y = _normed(x, rms, eps)[0] * (1 + _beside(scale, x)) + _beside(shift, x)
    return (y.to(x.dtype),)


def _backward_formula(x: Tensor, scale: Tensor, dy: Tensor, rms: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    n, rate = _normed(x, rms, eps)
    wide = dy.to(n.dtype)
    dx = _through_norm(wide * (1 + _beside(scale, x)), n, rate, rms)
    return dx.to(x.dtype), (wide * n).sum(1).to(scale.dtype), wide.sum(1).to(scale.dtype)


def _tangents_formula(
    x: Tensor, scale: Tensor, shift: Tensor, dx: Tensor, dscale: Tensor, dshift: Tensor, rms: bool, eps: float
) -> tuple[Tensor, Tensor]:
    n, rate = _normed(x, rms, eps)
    factor, each = 1 + _beside(scale, x), n.unsqueeze(1)
    images = _through_norm(dx.to(n.dtype), each, rate.unsqueeze(1), rms) * factor.unsqueeze(1)
    if dscale.shape[1]:  # else scale and shift stand still
        images = images + each * _beside(dscale, x) + _beside(dshift, x)
    return (n * factor + _beside(shift, x)).to(x.dtype), images.to(x.dtype)


def _tangents_backward_formula(
    x: Tensor, scale: Tensor, dx: Tensor, dscale: Tensor, gy: Tensor, gdy: Tensor, rms: bool, eps: float
) -> tuple[Tensor, ...]:
    """With v = dx, w = the cotangent of dy times 1 + scale and J v = rate (v - mean v - n mean(v n)): n gets gradients
    from y, from dscale and, in J v, from itself; the rate's own share is -n mean(w J v)."""
    n, rate = _normed(x, rms, eps)
    each, rates = n.unsqueeze(1), rate.unsqueeze(1)
    factor, v, wide, wide_d = 1 + _beside(scale, x), dx.to(n.dtype), gy.to(n.dtype), gdy.to(n.dtype)
    w, image = wide_d * factor.unsqueeze(1), _through_norm(v, each, rates, rms)
    bent = w * (v * each).mean(-1, keepdim=True) + v * (w * each).mean(-1, keepdim=True)
    gn = wide * factor - (rates * bent).sum(1)
    if dscale.shape[1]:
        gn = gn + (wide_d * _beside(dscale, x)).sum(1)
    gx = _through_norm(gn, n, rate, rms) - rate * n * (w * image).mean(-1, keepdim=True).sum(1)
    gscale = (wide * n + (wide_d * image).sum(1)).sum(1)
    number = dscale.shape[1]
    params = gscale, wide.sum(1), (wide_d[:, :number] * each).sum(2), wide_d[:, :number].sum(2)
    gscale, gshift, gdscale, gdshift = (t.to(scale.dtype) for t in params)
    gdx = _through_norm(w, each, rates, rms)
    return gx.to(x.dtype), gscale, gshift, gdx.to(x.dtype), gdscale, gdshift


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check(x: Tensor, scale: Tensor, shift: Tensor, rms: bool, eps: float) -> None:
    """What `csrc/bind/modulated_norm.cpp` checks, for the paths that do not go through it."""
    narrow = x.dtype == torch.float32 and scale.dtype in (torch.bfloat16, torch.float16)
    if x.dtype not in FLOATING or not (scale.dtype == x.dtype or narrow):
        raise TypeError(
            "modulated_norm: x must be float32, float64, bfloat16 or float16 and scale of x's dtype (or 16 bits beside "
            f"a float32 x); got x {x.dtype}, scale {scale.dtype}"
        )
    if x.ndim != 3:
        raise ValueError(f"modulated_norm: x must be (B, T, C); got {tuple(x.shape)}")
    rows, _, size = x.shape
    _check_like("scale", scale, (rows, size), scale.dtype, x)
    _check_like("shift", shift, (rows, size), scale.dtype, x)
    if not eps >= 0:
        raise ValueError(f"modulated_norm: eps must not be negative; got {eps}")


def _check_tangents(
    x: Tensor, scale: Tensor, shift: Tensor, dx: Tensor, dscale: Tensor, dshift: Tensor, rms: bool, eps: float
) -> None:
    _check(x, scale, shift, rms, eps)
    if dx.ndim != 4:
        raise ValueError(f"modulated_norm: dx must be (B, K, T, C); got {tuple(dx.shape)}")
    number = dx.shape[1]
    _check_like("dx", dx, (x.shape[0], number, *x.shape[1:]), x.dtype, x)
    moving = 0 if dscale.ndim == 3 and dscale.shape[1] == 0 else number  # (B, 0, C): they stand still
    for name, t in (("dscale", dscale), ("dshift", dshift)):
        _check_like(name, t, (x.shape[0], moving, x.shape[2]), scale.dtype, x)


def _check_like(name: str, t: Tensor, shape: tuple[int, ...], dtype: torch.dtype, x: Tensor) -> None:
    if t.dtype != dtype:
        raise TypeError(f"modulated_norm: {name} must be {dtype}; got {t.dtype}")
    if t.device != x.device:
        raise ValueError(f"modulated_norm: x and {name} must be on one device; got {x.device} and {t.device}")
    if t.shape != shape:
        raise ValueError(f"modulated_norm: {name} must be {shape}; got {tuple(t.shape)}")


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in tensors)


_CONFIG = "bool rms, float eps"

_op = FusedOp(
    "modulated_norm",
    f"(Tensor x, Tensor scale, Tensor shift, {_CONFIG}) -> Tensor",
    formula=_formula,
    check=_check,
    fake=lambda x, *_: _like(x),
    saved=lambda x, scale, shift, y: (x, scale),
    backward=FusedOp(
        "modulated_norm_backward",
        f"(Tensor x, Tensor scale, Tensor dy, {_CONFIG}) -> (Tensor, Tensor, Tensor)",
        formula=_backward_formula,
        fake=lambda x, scale, *_: _like(x, scale, scale),
    ),
)

_tangents = FusedOp(
    "modulated_norm_tangents",
    f"(Tensor x, Tensor scale, Tensor shift, Tensor dx, Tensor dscale, Tensor dshift, {_CONFIG}) -> (Tensor, Tensor)",
    formula=_tangents_formula,
    check=_check_tangents,
    fake=lambda x, scale, shift, dx, *_: _like(x, dx),
    saved=lambda x, scale, shift, dx, dscale, dshift, y, dy: (x, scale, dx, dscale),
    backward=FusedOp(
        "modulated_norm_tangents_backward",
        f"(Tensor x, Tensor scale, Tensor dx, Tensor dscale, Tensor gy, Tensor gdy, {_CONFIG}) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        formula=_tangents_backward_formula,
        fake=lambda x, scale, dx, dscale, *_: _like(x, scale, scale, dx, dscale, dscale),
    ),
)


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, *, rms: bool = False, eps: float = 1e-6) -> Tensor:
    r"""Normalise each token, then scale and shift it by what its event says: :math:`y = n(x)\,(1 + a) + b`, adaLN.

    n is layer norm without weights, (x - mean) / sqrt(variance + eps) over the last dimension, or with ``rms`` the root
    mean square's, x / sqrt(mean of squares + eps).

    Args:
        x: (B, \*tokens, C), float32, float64, bfloat16 or float16, any strides; any number of tokens, also (B, C).
        scale, shift: a and b, (B, C), of x's dtype, or 16 bits beside a float32 x.

    Returns:
        y, shaped as x, of its dtype; the arithmetic is float32 or better. NaN in tokens that have one.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, with both named; a negative eps.

    Cost: one pass over memory; the gradient of all three one more, over x and that of y. Sources: Ba, Kiros, Hinton
    2016 (arXiv:1607.06450); Zhang, Sennrich 2019 (arXiv:1910.07467); Peebles, Xie 2023 (arXiv:2212.09748).

    >>> modulated_norm(torch.tensor([[[1.0, 3.0], [4.0, 0.0]]]), torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
    tensor([[[-2.0000,  1.0000],
             [ 2.0000, -1.0000]]])
    """
    return _op((_tokens(x, 1), scale, shift, rms, eps))[0].reshape(x.shape)


def modulated_norm_with_tangents(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    dx: Tensor,
    dscale: Tensor | None = None,
    dshift: Tensor | None = None,
    *,
    rms: bool = False,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    r"""Compute y of :func:`modulated_norm` and its derivatives along K directions of x, scale and shift, in one pass.

    :math:`\dot y_k = J \dot x_k\,(1 + a) + n\,\dot a_k + \dot b_k` with the norm's Jacobian
    :math:`J = r\,(I - 1 1^T / C - n n^T / C)`, r = 1 / sqrt(variance + eps), the ones left out with ``rms``.

    Args:
        dx: (B, K, \*tokens, C), of x's dtype.
        dscale, dshift: (B, K, C), of scale's dtype; None where scale and shift do not move.

    Others, and errors, as :func:`modulated_norm`.

    Returns:
        y, shaped as x, and its K derivatives, shaped as dx; both differentiable.

    Cost: one pass over x, dx and what comes out; the gradient of all inputs one more.

    >>> x, ones = torch.tensor([[3.0, 1.0]]), torch.ones(1, 2)
    >>> modulated_norm_with_tangents(x, ones, ones, x.unsqueeze(1))[1].abs() < 1e-5  # lengths do not count
    tensor([[[True, True]]])
    """
    directions = _tokens(dx, 2)
    if dscale is None and dshift is None:
        dscale = dshift = scale.new_zeros(scale.shape[0], 0, *scale.shape[1:])
    dscale, dshift = (scale.new_zeros(*dx.shape[:2], *scale.shape[1:]) if t is None else t for t in (dscale, dshift))
    y, dy = _tangents((_tokens(x, 1), scale, shift, directions, dscale, dshift, rms, eps))
    return y.reshape(x.shape), dy.reshape(dx.shape)


def _tokens(x: Tensor, before: int) -> Tensor:
    """(B, *tokens, C) as (B, T, C), with `before` dimensions before the tokens."""
    if x.ndim <= before:
        name, rows = ("x", "B") if before == 1 else ("dx", "B, K")
        raise ValueError(f"modulated_norm: {name} must be ({rows}, *tokens, C); got {tuple(x.shape)}")
    return x.unsqueeze(before) if x.ndim == before + 1 else x.flatten(before, -2)
