"""What a token costs under the logits of a network: the bound of discrete flow matching, or cross-entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING, state_dtype
from .modes import grad_enabled
from .symbols import check_no_mask, check_symbols

__all__ = ["discrete_loss"]

_KINDS = ("cross_entropy", "elbo")


def _scores(logits: Tensor, x_t: Tensor, x1: Tensor, mask: int) -> tuple[Tensor, Tensor]:
    """Which tokens count, (B, N), and logits in the dtype of arithmetic, those of other tokens 0."""
    counted = (x1 >= 0) & ((x_t == mask) | (mask < 0))
    scores = torch.where(counted[..., None], logits.to(state_dtype(logits)), 0.0)
    if 0 <= mask < logits.shape[-1]:
        scores = scores.masked_fill(torch.arange(logits.shape[-1], device=logits.device) == mask, -math.inf)
    return counted, scores


def _at(values: Tensor, x: Tensor) -> Tensor:
    """Of every token the value at its symbol; NaN where there is none such."""
    size = values.shape[-1]
    found = values.gather(-1, x.clamp(0, size - 1)[..., None])[..., 0]
    return torch.where((x >= 0) & (x < size), found, math.nan)


def _log_p(scores: Tensor) -> Tensor:
    """Of a softmax; torch's own writes over what forward AD of a graph still needs."""
    scores = scores - scores.amax(-1, keepdim=True).detach()
    return scores - scores.exp().sum(-1, keepdim=True).log()


def _formula(logits: Tensor, x_t: Tensor, x1: Tensor, elbo: bool, mask: int) -> tuple[Tensor, Tensor]:
    """The op in plain torch; the sums, which it does not need itself, are those of `csrc/math/discrete_loss.h`."""
    counted, scores = _scores(logits, x_t, x1, mask)
    if not x1.numel():
        return scores.sum(-1), scores.new_zeros(*x1.shape, 3)
    log_p = _log_p(scores)
    loss = -_at(log_p, x1)
    most = scores.detach().amax(-1)
    masses = (scores.detach() - most[..., None]).exp()
    own = torch.zeros_like(most)
    if elbo and mask < 0:
        p_t = _at(log_p, x_t).exp()
        loss = torch.where(x_t == x1, 1.0, loss) - p_t
        own = _at(masses, x_t)
        masses = masses.masked_fill(torch.arange(masses.shape[-1], device=x_t.device) == x_t[..., None], 0.0)
    sums = (torch.where(counted, *pair) for pair in ((most, 0.0), (masses.sum(-1), 1.0), (own, 0.0)))
    return torch.where(counted, loss, 0.0), torch.stack((*sums,), -1)


def _backward(
    logits: Tensor, x_t: Tensor, x1: Tensor, sums: Tensor, dloss: Tensor, dsums: Tensor, elbo: bool, mask: int
) -> tuple[Tensor]:
    counted, scores = _scores(logits, x_t, x1, mask)
    if not x1.numel():
        return (torch.zeros_like(logits),)
    p, symbols = _log_p(scores).exp(), torch.arange(logits.shape[-1], device=logits.device)
    scale = torch.where(counted, dloss.to(scores.dtype), 0.0)[..., None]
    if elbo and mask < 0:
        ce, p_t = (x_t != x1).to(p.dtype)[..., None], _at(p, x_t)[..., None]
    else:
        ce, p_t = torch.ones_like(scale), torch.zeros_like(scale)
    slope = (ce + p_t) * p - ce * (symbols == x1[..., None]) - p_t * (symbols == x_t[..., None])
    return ((scale * slope).to(logits.dtype),)


def _check(logits: Tensor, x_t: Tensor, x1: Tensor, elbo: bool, mask: int) -> None:
    """What `csrc/bind/discrete_loss.cpp` checks, for the paths that do not go through it."""
    if logits.dtype not in FLOATING:
        raise TypeError(f"discrete_loss: logits must be float32, float64, bfloat16 or float16; got {logits.dtype}")
    if logits.ndim != 3 or logits.shape[:2] != x1.shape or x_t.shape != x1.shape:
        raise ValueError(
            f"discrete_loss: expected logits (B, N, K), x_t and x1 (B, N); got {tuple(logits.shape)}, "
            f"{tuple(x_t.shape)} and {tuple(x1.shape)}"
        )
    for what, t in (("x_t", x_t), ("x1", x1)):
        if t.dtype != torch.int64:
            raise TypeError(f"discrete_loss: {what} must be int64; got {t.dtype}")
        if t.device != logits.device:
            raise ValueError(
                f"discrete_loss: logits and {what} must be on one device; got {logits.device} and {t.device}"
            )
    if x1.numel() and logits.shape[2] == 0:
        raise ValueError("discrete_loss: there is no symbol")
    check_symbols("discrete_loss", "x_t", x_t, logits.shape[2], mask, x1)
    check_symbols("discrete_loss", "x1", x1, logits.shape[2], data=x1)
    check_no_mask("discrete_loss", "x1", x1, mask)


_op = FusedOp(
    "discrete_loss",
    "(Tensor logits, Tensor x_t, Tensor x1, bool elbo, int mask) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=lambda logits, *_: tuple(
        logits.new_empty((*logits.shape[:2], *more), dtype=state_dtype(logits)) for more in ((), (3,))
    ),
    saved=lambda logits, x_t, x1, loss, sums: (logits, x_t, x1, sums),
    backward=FusedOp(
        "discrete_loss_backward",
        "(Tensor logits, Tensor x_t, Tensor x1, Tensor sums, Tensor dloss, Tensor dsums, bool elbo, int mask) "
        "-> Tensor",
        formula=_backward,
        fake=lambda logits, *_: (logits.new_empty(logits.shape),),
        indices=("x_t", "x1"),
    ),
    indices=("x_t", "x1"),
)


def discrete_loss(
    logits: Tensor, x_t: Tensor, x1: Tensor, *, kind: str = "elbo", mask: int | None = None, in_place: bool = False
) -> Tensor:
    r"""Measure, for every token, what its logits cost: in nats, before the weight of its time.

    With p the softmax of the logits it is

    - "elbo": :math:`-[p(x_t) - \delta + (1 - \delta) \log p(x_1)]` with :math:`\delta = 1[x_t = x_1]`; times
      :math:`\kappa' / (1 - \kappa)`, summed over tokens and averaged over times it bounds :math:`-\log p(x_1)`
      (the generalised Kullback-Leibler divergence of rates);
    - "cross_entropy": :math:`-\log p(x_1)`.

    With a mask, its symbol has no part in p and tokens that are no longer the mask cost nothing, which makes the two
    the same. Nor do tokens whose x1 is negative: padding. The logits of these are not looked at.

    Args:
        logits: (B, \*event, K), float32, float64, bfloat16 or float16.
        x_t, x1: (B, \*event), int64: the tokens now and those of the data.
        kind: "elbo" or "cross_entropy".
        mask: the mask symbol, which may be K or more; None for a uniform source.
        in_place: let the gradient be written over the logits: it needs no memory then, and half the time where they
            are large. They are gone after the backward pass; torch raises RuntimeError where that needs them once more.
            Under compile, torch.func and second derivatives the gradient is a tensor of its own, as else.

    Returns:
        (B, \*event), float32 (float64 for float64 logits), differentiable in the logits to any order.

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit, another kind; on the CPU symbols out of range, such
            as a negative x_t where x1 is none, and a mask among the data; in_place of a leaf that requires a gradient,
            or a view of one, which that would lie in.

    Cost: one pass over the logits, an exponential each; the gradient the same again. Sources: Gat et al. 2024
    (arXiv:2407.15595); Shaul et al. 2025 (arXiv:2412.03487); Sahoo et al. 2024 (arXiv:2406.07524).

    >>> logits, x1 = torch.zeros(1, 2, 4), torch.tensor([[1, 2]])
    >>> discrete_loss(logits, torch.tensor([[4, 2]]), x1, mask=4)
    tensor([[1.3863, 0.0000]])
    >>> discrete_loss(logits, torch.tensor([[3, 2]]), x1)
    tensor([[1.1363, 0.7500]])
    """
    if kind not in _KINDS:
        raise ValueError(f"discrete_loss: kind must be one of {', '.join(_KINDS)}; got {kind!r}")
    if mask is not None and mask < 0:
        raise ValueError(f"discrete_loss: mask must be a symbol of at least 0; got {mask}")
    if logits.shape[:-1] != x1.shape or x_t.shape != x1.shape or x1.ndim < 1:
        raise ValueError(
            f"discrete_loss: expected logits (B, *event, K), x_t and x1 (B, *event); got {tuple(logits.shape)}, "
            f"{tuple(x_t.shape)} and {tuple(x1.shape)}"
        )
    source = logits if logits._base is None else logits._base
    if in_place and grad_enabled() and source.is_leaf and source.requires_grad:
        raise ValueError(
            "discrete_loss: in_place is for logits that were computed; got a leaf that requires a gradient, or a view "
            "of one, and the gradient would lie in it"
        )
    code = -1 if mask is None else mask
    if logits.ndim == 3:  # nothing to be reshaped, and to be undone on the way back
        return _op((logits, x_t.contiguous(), x1.contiguous(), kind == "elbo", code), consume=in_place)[0]
    rows, places = x1.shape[0], math.prod(x1.shape[1:])
    flat = logits.reshape(rows, places, logits.shape[-1])
    now, data = (x.reshape(rows, places).contiguous() for x in (x_t, x1))
    return _op((flat, now, data, kind == "elbo", code), consume=in_place)[0].reshape(x1.shape)
