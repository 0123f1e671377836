"""Affine and additive coupling with log-determinant: one fused pass, both directions, gradient from the output."""

from __future__ import annotations

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import state_dtype
from .masks import MASK_CODES, MASKS, checkerboard, mask_code, slices

__all__ = ["BOUNDS", "additive_coupling", "affine_coupling", "affine_coupling_from_output"]

#: name -> code of the bound in `csrc/math/affine.h`.
BOUNDS = {"none": 1, "tanh": 2, "sigmoid": 3}
#: the code of an additive coupling, which has no scale: its params are the shifts alone.
ADDITIVE = 0


def _split_params(params: Tensor, bound: int, interleaved: bool) -> tuple[Tensor | None, Tensor]:
    if bound == ADDITIVE:
        return None, params
    if interleaved:
        return params[:, 0::2], params[:, 1::2]
    raw, t = params.chunk(2, 1)  # one node with two outputs: the gradient is a concatenation, not a sum of paddings
    return raw, t


def log_scale(raw: Tensor, bound: int, limit: float) -> Tensor:
    if bound == BOUNDS["tanh"]:
        return limit * torch.tanh(raw / limit)
    if bound == BOUNDS["sigmoid"]:
        return torch.nn.functional.logsigmoid(raw + 2)
    return raw


def _slope(raw: Tensor, bound: int, limit: float) -> Tensor:
    """The derivative of the bounded log-scale by the raw one."""
    if bound == BOUNDS["tanh"]:
        return 1 - torch.tanh(raw / limit) ** 2
    if bound == BOUNDS["sigmoid"]:
        return torch.sigmoid(-2 - raw)
    return torch.ones_like(raw)


def _moved_part(x: Tensor, mask: int) -> Tensor:
    return x if mask & ~1 == MASKS["checkerboard"] else x[:, slices(x.shape[1], mask)[1]]


def _put_back(x: Tensor, moved: Tensor, mask: int) -> Tensor:
    """x with its transformed part replaced; every step is out of place, so functorch and Inductor can follow."""
    if mask & ~1 in (MASKS["checkerboard"], MASKS["all"]):
        return moved
    still, part = slices(x.shape[1], mask)
    if mask & ~1 == MASKS["half"]:
        return torch.cat([moved, x[:, still]] if mask & 1 else [x[:, still], moved], 1)
    return torch.slice_scatter(x.contiguous(), moved, 1, part.start, part.stop, part.step)


def _terms(x: Tensor, params: Tensor, mask: int, bound: int, limit: float, interleaved: bool) -> tuple[Tensor, ...]:
    """(x, raw, s, t) on the transformed part, in the accumulator's type; s and t are zero where nothing moves."""
    dtype = state_dtype(x)
    raw, t = _split_params(params.to(dtype), bound, interleaved)
    if raw is None:
        raw = torch.zeros_like(t)
    if mask & ~1 != MASKS["checkerboard"]:
        return _moved_part(x, mask).to(dtype), raw, log_scale(raw, bound, limit), t
    still = ~checkerboard(x, mask)
    raw, t = raw.masked_fill(still, 0), t.masked_fill(still, 0)
    return x.to(dtype), raw, log_scale(raw, bound, limit).masked_fill(still, 0), t


def _formula(
    x: Tensor, params: Tensor, mask: int, bound: int, limit: float, interleaved: bool, inverse: bool
) -> tuple[Tensor, Tensor]:
    """The op in plain torch: the reference of every kernel, and what Inductor and functorch see."""
    part, _, s, t = _terms(x, params, mask, bound, limit, interleaved)
    moved = (part - t) * torch.exp(-s) if inverse else part * torch.exp(s) + t
    ladj = s.flatten(1).sum(1)
    return _put_back(x, moved.to(x.dtype), mask), -ladj if inverse else ladj


def _backward_formula(
    y: Tensor, params: Tensor, dy: Tensor, dladj: Tensor, mask: int, bound: int, limit: float, interleaved: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients from the output alone: with y = x e^s + t, x e^s is y - t, so neither x nor a division is needed."""
    dtype = state_dtype(y)
    part, raw, s, t = _terms(y, params, mask, bound, limit, interleaved)
    g = _moved_part(dy, mask).to(dtype)
    dladj = dladj.to(dtype).reshape(-1, *[1] * (y.ndim - 1))
    if inverse:
        moved = g * torch.exp(-s)
        dt, ds = -moved, -g * part - dladj
    else:
        moved = g * torch.exp(s)
        dt, ds = g, g * (part - t) + dladj
    draw = ds * _slope(raw, bound, limit)
    if mask & ~1 == MASKS["checkerboard"]:
        still = ~checkerboard(y, mask)
        dt, draw = dt.masked_fill(still, 0), draw.masked_fill(still, 0)
    if bound == ADDITIVE:
        dparams = dt
    elif interleaved:
        dparams = torch.stack([draw, dt], 2).flatten(1, 2)
    else:
        dparams = torch.cat([draw, dt], 1)
    return _put_back(dy, moved.to(dy.dtype), mask), dparams.to(params.dtype)


def _check(x: Tensor, params: Tensor, mask: int, bound: int, limit: float, *_: object) -> None:
    """What `csrc/bind/affine_coupling.cpp` checks, for the paths that do not go through it."""
    if x.dtype not in _STATE_DTYPES or params.dtype not in (x.dtype, *_STATE_DTYPES[x.dtype]):
        raise TypeError(
            "affine_coupling: x must be float32, float64, bfloat16 or float16 and params of x's dtype (or 16 bits "
            f"beside a float32 x); got x {x.dtype}, params {params.dtype}"
        )
    if x.device != params.device:
        raise ValueError(f"affine_coupling: x and params must be on one device; got {x.device} and {params.device}")
    board = mask & ~1 == MASKS["checkerboard"]
    if x.ndim < 2 or (board and x.ndim != 4):
        wanted = "(B, C, H, W)" if board else "(B, C, *rest)"
        raise ValueError(f"affine_coupling: x must be {wanted}; got {tuple(x.shape)}")
    moved = x.shape[1] if board else len(range(x.shape[1])[slices(x.shape[1], mask)[1]])
    expected = (x.shape[0], moved if bound == ADDITIVE else 2 * moved, *x.shape[2:])
    if params.shape != expected:
        raise ValueError(
            f"affine_coupling: params must be {expected} for x {tuple(x.shape)} under this mask; "
            f"got {tuple(params.shape)}"
        )
    if not 0 < limit <= 80:
        raise ValueError(f"affine_coupling: limit must be in (0, 80]; got {limit}")


_STATE_DTYPES: dict[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.float32: (torch.bfloat16, torch.float16),
    torch.float64: (),
    torch.bfloat16: (),
    torch.float16: (),
}


def _fake(x: Tensor, params: Tensor, *config: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:1], dtype=state_dtype(x))


def _fake_backward(y: Tensor, params: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), params.new_empty(params.shape)


#: What stands around a coupling gains more by fusion than the kernel does: compiled RealNVP training steps of 1024 and
#: 4096 rows of 64 take 0.84 to 0.97 of their time with the op kept whole.
_EXPAND_BELOW = 1 << 20
_CONFIG = "int mask, int bound, float limit, bool interleaved, bool inverse"

_op = FusedOp(
    "affine_coupling",
    f"(Tensor x, Tensor params, {_CONFIG}) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=_fake,
    saved=lambda x, params, y, ladj: (y, params),
    expand_below=_EXPAND_BELOW,
    backward=FusedOp(
        "affine_coupling_backward",
        f"(Tensor y, Tensor params, Tensor dy, Tensor dladj, {_CONFIG}) -> (Tensor, Tensor)",
        formula=_backward_formula,
        fake=_fake_backward,
    ),
)


def affine_coupling(
    x: Tensor,
    params: Tensor,
    *,
    mask: str = "half",
    swap: bool = False,
    bound: str = "tanh",
    limit: float = 2.0,
    interleaved: bool = False,
    inverse: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """Scale and shift one part of x by a conditioner's output, and return the log-determinant.

    On the transformed part y = x e^s + t and ladj = sum s; elsewhere y = x. With inverse=True y = (x - t) e^-s and
    ladj = -sum s. s is the raw log-scale under `bound`: "tanh" s = limit tanh(raw / limit), "sigmoid"
    s = log sigmoid(raw + 2) (Glow), "none" s = raw.

    Args:
        x: (B, C, *rest), float32, float64, bfloat16 or float16, any strides.
        params: the conditioner's output as it is, (B, 2 Ct, *rest) with Ct transformed channels: the first Ct hold the
            raw log-scales, the last Ct the shifts; with interleaved=True even channels hold raw log-scales, odd ones
            shifts. dtype of x, or bfloat16/float16 beside a float32 x.
        mask: "half" ("channel" is the same for images): channels C // 2 and up are transformed; "alternating": odd
            channels; "checkerboard": (B, C, H, W), positions with h + w odd, params (B, 2 C, H, W) of which the others
            are ignored; "all". `swap` exchanges the two parts ("all" has but one).
        limit: the largest |s| for "tanh", in (0, 80].
        inplace: write y over x. The gradient needs only y, but a network that saw x must not need it in its backward.

    Returns:
        y, shaped as x; ladj (B,) in nats, float32 (float64 for a float64 x).

    Raises:
        ValueError, TypeError: unknown mask or bound, shapes, dtypes or devices that do not fit, with both named.

    Cost: one pass over memory in either direction; the backward one more, from y, params and the two gradients.
    Sources: Dinh, Sohl-Dickstein, Bengio 2017 (arXiv:1605.08803); Kingma, Dhariwal 2018 (arXiv:1807.03039).

    >>> x, params = torch.ones(2, 4), torch.zeros(2, 4)
    >>> y, ladj = affine_coupling(x, params)
    >>> bool((y == x).all()), ladj
    (True, tensor([0., 0.]))
    """
    try:
        config = MASK_CODES[mask, swap], BOUNDS[bound], limit, interleaved, inverse
    except (KeyError, TypeError):
        config = mask_code(mask, swap), _bound_code(bound), limit, interleaved, inverse
    return _op((x, params, *config), inplace)


def _bound_code(bound: str) -> int:
    if bound not in BOUNDS:
        raise ValueError(f"bound: expected one of {', '.join(BOUNDS)}; got {bound!r}")
    return BOUNDS[bound]


def additive_coupling(
    x: Tensor, t: Tensor, *, mask: str = "half", swap: bool = False, inverse: bool = False, inplace: bool = False
) -> tuple[Tensor, Tensor]:
    """Shift one part of x by a conditioner's output: the volume-preserving coupling of NICE.

    y = x + t on the transformed part (inverse: x - t), y = x elsewhere; ladj = 0.

    Args and errors as `affine_coupling`, with t (B, Ct, *rest) in place of params.

    Returns:
        y, shaped as x; ladj (B,), zeros, so that it can stand where an affine coupling stands.

    Cost: one pass over memory in either direction; the gradient is a copy. Source: Dinh, Krueger, Bengio 2015
    (arXiv:1410.8516).

    >>> additive_coupling(torch.zeros(1, 2), torch.ones(1, 1))[0]
    tensor([[0., 1.]])
    """
    return _op((x, t, mask_code(mask, swap), ADDITIVE, 1.0, False, inverse), inplace)


@torch.no_grad()
def affine_coupling_from_output(
    y: Tensor,
    params: Tensor,
    dy: Tensor,
    dladj: Tensor,
    *,
    mask: str = "half",
    swap: bool = False,
    bound: str | None = "tanh",
    limit: float = 2.0,
    interleaved: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Go back from the output of `affine_coupling`: its input, and the gradients of both its inputs.

    x = (y - t) e^-s, dx = dy e^s, dt = dy, ds = dy (y - t) + dladj on the transformed part; x = y, dx = dy elsewhere.

    Args:
        y: the coupling's output (B, C, *rest); dy its gradient, same shape and dtype; dladj (B,) that of ladj.
        params and the options: those of the coupling; bound=None means `additive_coupling`.

    Returns:
        x and dx, shaped as y; dparams, shaped as params. New tensors, not recorded by autograd.

    Raises:
        ValueError, TypeError: as `affine_coupling`.

    Cost: two passes over memory. Sources: those of `affine_coupling`.

    >>> y, params = torch.tensor([[2.0, 5.0]]), torch.tensor([[0.0, 1.0]])
    >>> affine_coupling_from_output(y, params, torch.ones(1, 2), torch.zeros(1))
    (tensor([[2., 4.]]), tensor([[1., 1.]]), tensor([[4., 1.]]))
    """
    code = ADDITIVE if bound is None else _bound_code(bound)
    config = mask_code(mask, swap), code, limit, interleaved
    x, _ = _op((y, params, *config, True))
    return x, *_op.backward((y, params, dy, dladj.to(state_dtype(y)), *config, False))  # type: ignore[misc]
