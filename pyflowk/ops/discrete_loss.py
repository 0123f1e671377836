"""What a token costs under the logits of a network: the bound of discrete flow matching, or cross-entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING, state_dtype
from .symbols import check_symbols

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


def _formula(logits: Tensor, x_t: Tensor, x1: Tensor, elbo: bool, mask: int) -> tuple[Tensor]:
    """The op in plain torch."""
    counted, scores = _scores(logits, x_t, x1, mask)
    if not x1.numel():
        return (scores.sum(-1),)
    log_p = _log_p(scores)
    loss = -_at(log_p, x1)
    if elbo and mask < 0:
        p_t = _at(log_p, x_t).exp()
        loss = torch.where(x_t == x1, 1.0, loss) - p_t
    return (torch.where(counted, loss, 0.0),)


def _backward(logits: Tensor, x_t: Tensor, x1: Tensor, dloss: Tensor, elbo: bool, mask: int) -> tuple[Tensor]:
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


_op = FusedOp(
    "discrete_loss",
    "(Tensor logits, Tensor x_t, Tensor x1, bool elbo, int mask) -> Tensor",
    formula=_formula,
    check=_check,
    fake=lambda logits, *_: (logits.new_empty(logits.shape[:2], dtype=state_dtype(logits)),),
    saved=lambda logits, x_t, x1, loss: (logits, x_t, x1),
    backward=FusedOp(
        "discrete_loss_backward",
        "(Tensor logits, Tensor x_t, Tensor x1, Tensor dloss, bool elbo, int mask) -> Tensor",
        formula=_backward,
        fake=lambda logits, *_: (logits.new_empty(logits.shape),),
        indices=("x_t", "x1"),
    ),
    indices=("x_t", "x1"),
)


def discrete_loss(logits: Tensor, x_t: Tensor, x1: Tensor, *, kind: str = "elbo", mask: int | None = None) -> Tensor:
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

    Returns:
        (B, \*event), float32 (float64 for float64 logits), differentiable in the logits to any order.

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit, another kind; on the CPU symbols out of range.

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
    rows, places, size = x1.shape[0], math.prod(x1.shape[1:]), logits.shape[-1]
    code = -1 if mask is None else mask
    now, data = (x.reshape(rows, places).contiguous() for x in (x_t, x1))
    check_symbols("discrete_loss", "x_t", now, size, code, padded=True)
    check_symbols("discrete_loss", "x1", data, size, padded=True)
    (loss,) = _op((logits.reshape(rows, places, size), now, data, kind == "elbo", code))
    return loss.reshape(x1.shape)
