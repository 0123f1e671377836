"""Attention of queries to keys, and its derivatives along tangents: no matrix of all queries and keys is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING, state_dtype

__all__ = ["attention", "attention_with_tangents"]


def _shown(mask: Tensor, keys: tuple[Tensor, ...], like: Tensor) -> tuple[Tensor, ...]:
    """Rows of keys and values (..., S, d) in the type of their arithmetic, 0 where no query sees them."""
    wide = tuple(t.to(state_dtype(like)) for t in keys)
    if not mask.shape[1]:
        return wide
    return tuple(t.masked_fill((mask == 0).view(len(mask), *[1] * (t.ndim - 3), -1, 1), 0) for t in wide)


def _scores(q: Tensor, k: Tensor, mask: Tensor, causal: bool, scale: float) -> Tensor:
    scores = scale * (q.to(k.dtype) @ k.mT)
    if mask.shape[1]:
        scores = scores.masked_fill((mask == 0)[:, None, None], -torch.inf)
    if causal:
        queries, keys = scores.shape[2:]
        behind = torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(1 + keys - queries)
        scores = scores.masked_fill(behind, -torch.inf)
    return scores


def _lse(scores: Tensor) -> Tensor:
    """`logsumexp`, whose forward derivative cannot be differentiated again."""
    if not scores.shape[-1]:
        return scores.sum(-1) - torch.inf
    top = scores.detach().amax(-1, keepdim=True)
    top = top.masked_fill(top == -torch.inf, 0)
    total = (scores - top).exp().sum(-1)
    none = total == 0
    return total.masked_fill(none, 1).log().masked_fill(none, -torch.inf) + top.squeeze(-1)


def _shares(scores: Tensor, lse: Tensor) -> Tensor:
    """The softmax, whose rows' logarithms of sums are known; 0 where no key takes part."""
    return (scores - lse.masked_fill(lse == -torch.inf, 0).unsqueeze(-1)).exp()


def _formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """The op in plain torch: the reference of the kernels, and what Inductor, functorch and a GPU see."""
    k, v = _shown(mask, (k, v), q)
    scores = _scores(q, k, mask, causal, scale)
    lse = _lse(scores)
    return (_shares(scores, lse) @ v).to(q.dtype), lse


def _backward_formula(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    y: Tensor,
    lse: Tensor,
    gy: Tensor,
    glse: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, ...]:
    none = q.new_zeros(len(q), 0, *q.shape[1:])
    moved = none, k.new_zeros(len(k), 0, *k.shape[1:]), v.new_zeros(len(v), 0, *v.shape[1:])
    outputs = y, lse, gy.new_zeros(len(q), 0, *gy.shape[1:]), glse.new_zeros(len(q), 0, *glse.shape[1:])
    gradients = gy, glse, outputs[2], outputs[3]
    return _tangents_backward_formula(q, k, v, *moved, mask, *outputs, *gradients, causal, scale)[:3]


def _slopes(q: Tensor, k: Tensor, dq: Tensor, dk: Tensor, scale: float) -> Tensor | None:
    """Derivatives of the scores along all tangents, (B, K, H, T, S); None where queries and keys stand still."""
    parts = []
    if dq.shape[1]:
        parts.append(dq.to(k.dtype) @ k.unsqueeze(1).mT)
    if dk.shape[1]:
        parts.append(q.to(k.dtype).unsqueeze(1) @ dk.mT)
    return scale * sum(parts[1:], parts[0]) if parts else None


def _tangents_formula(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, mask: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    k, v, dk, dv = _shown(mask, (k, v, dk, dv), q)
    scores, slopes = _scores(q, k, mask, causal, scale), _slopes(q, k, dq, dk, scale)
    lse = _lse(scores)
    shares = _shares(scores, lse)
    number = max(t.shape[1] for t in (dq, dk, dv))
    y, each = shares @ v, shares.unsqueeze(1)
    dy, dlse = y.new_zeros(len(y), number, *y.shape[1:]), lse.new_zeros(len(y), number, *lse.shape[1:])
    if slopes is not None:
        dlse = (each * slopes).sum(-1)
        dy = (each * (slopes - dlse.unsqueeze(-1))) @ v.unsqueeze(1)
    if dv.shape[1]:
        dy = dy + each @ dv
    return y.to(q.dtype), lse, dy.to(q.dtype), dlse


def _tangents_backward_formula(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, mask: Tensor,
    y: Tensor, lse: Tensor, dy: Tensor, dlse: Tensor, gy: Tensor, glse: Tensor, gdy: Tensor, gdlse: Tensor,
    causal: bool, scale: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """With the shares P, the slopes dS and their mean r (dlse), and the cotangents g of y, h of dy: the slopes get
    E = P (h v^T - <h, y> + that of r), the scores F = P (g v^T + h dv^T - <g, y> - <h, dy> + that of lse) + E (dS - r).
    """
    dtypes = [t.dtype for t in (q, k, v, dq, dk, dv)]
    k, v, dk, dv = _shown(mask, (k, v, dk, dv), q)
    q, dq, y, dy, gy, gdy = (t.to(k.dtype) for t in (q, dq, y, dy, gy, gdy))
    shares = _shares(_scores(q, k, mask, causal, scale), lse)
    bent = gy @ v.mT + (glse - (gy * y).sum(-1) - (gdy * dy).sum(-1).sum(1)).unsqueeze(-1)
    gv, gdv = shares.mT @ gy, torch.zeros_like(dv)
    if dv.shape[1]:
        bent = bent + (gdy @ dv.mT).sum(1)
        gdv = shares.unsqueeze(1).mT @ gdy
    gscores = shares * bent
    gdq, gdk, slopes = torch.zeros_like(dq), torch.zeros_like(dk), _slopes(q, k, dq, dk, scale)
    gq, gk = scale * (gscores @ k), scale * (gscores.mT @ q)
    if slopes is not None:
        each, centred = shares.unsqueeze(1), slopes - dlse.unsqueeze(-1)
        gslopes = each * (gdy @ v.unsqueeze(1).mT + (gdlse - (gdy * y.unsqueeze(1)).sum(-1)).unsqueeze(-1))
        more = scale * (gslopes * centred).sum(1)
        gq, gk = gq + more @ k, gk + more.mT @ q
        gv = gv + ((each * centred).mT @ gdy).sum(1)
        if dq.shape[1]:
            gk, gdq = gk + scale * (gslopes.mT @ dq).sum(1), scale * (gslopes @ k.unsqueeze(1))
        if dk.shape[1]:
            gq, gdk = gq + scale * (gslopes @ dk).sum(1), scale * (gslopes.mT @ q.unsqueeze(1))
    if mask.shape[1]:
        gk, gv, gdk, gdv = _shown(mask, (gk, gv, gdk, gdv), q)
    return tuple(g.to(dtype) for g, dtype in zip((gq, gk, gv, gdq, gdk, gdv), dtypes))


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, causal: bool, scale: float) -> None:
    """What `csrc/bind/attention.cpp` checks, for the paths that do not go through it."""
    if q.dtype not in FLOATING:
        raise TypeError(f"attention: q must be float32, float64, bfloat16 or float16; got {q.dtype}")
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        got = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(f"attention: q, k and v must be (B, H, T, d), (B, H, S, d) and (B, H, S, e); got {got}")
    _check_like("k", k, (*q.shape[:2], k.shape[2], q.shape[3]), q)
    _check_like("v", v, (*k.shape[:3], v.shape[3]), q)
    if mask.shape not in ((len(q), 0), (len(q), k.shape[2])):
        raise ValueError(f"attention: mask must be {(len(q), k.shape[2])}; got {tuple(mask.shape)}")


def _check_tangents(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, mask: Tensor, causal: bool, scale: float
) -> None:
    _check(q, k, v, mask, causal, scale)
    numbers = {t.shape[1] for t in (dq, dk, dv) if t.ndim == 5} - {0}
    for name, t, like in (("dq", dq, q), ("dk", dk, k), ("dv", dv, v)):
        number = max(numbers, default=0) if t.ndim != 5 or t.shape[1] else 0  # (B, 0, ...): it stands still
        _check_like(name, t, (len(q), number, *like.shape[1:]), q)


def _check_like(name: str, t: Tensor, shape: tuple[int, ...], q: Tensor) -> None:
    if t.dtype != q.dtype:
        raise TypeError(f"attention: {name} must be {q.dtype}; got {t.dtype}")
    if t.device != q.device:
        raise ValueError(f"attention: q and {name} must be on one device; got {q.device} and {t.device}")
    if t.shape != shape:
        raise ValueError(f"attention: {name} must be {tuple(shape)}; got {tuple(t.shape)}")


def _fake(q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return q.new_empty(*q.shape[:3], v.shape[3]), q.new_empty(q.shape[:3], dtype=state_dtype(q))


def _fake_tangents(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y, lse = _fake(q, k, v)
    number = max(t.shape[1] for t in (dq, dk, dv))
    return y, lse, *(t.new_empty(len(t), number, *t.shape[1:]) for t in (y, lse))  # type: ignore[return-value]


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in tensors)


_op = FusedOp(
    "attention",
    "(Tensor q, Tensor k, Tensor v, Tensor mask, bool causal, float scale) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=_fake,
    saved=lambda q, k, v, mask, y, lse: (q, k, v, mask, y, lse),
    indices=("mask",),
    backward=FusedOp(
        "attention_backward",
        "(Tensor q, Tensor k, Tensor v, Tensor mask, Tensor y, Tensor lse, Tensor gy, Tensor glse, bool causal, "
        "float scale) -> (Tensor, Tensor, Tensor)",
        formula=_backward_formula,
        fake=lambda q, k, v, *_: _like(q, k, v),
        indices=("mask",),
    ),
)

_MOVED = "Tensor q, Tensor k, Tensor v, Tensor dq, Tensor dk, Tensor dv, Tensor mask"

_tangents = FusedOp(
    "attention_tangents",
    f"({_MOVED}, bool causal, float scale) -> (Tensor, Tensor, Tensor, Tensor)",
    formula=_tangents_formula,
    check=_check_tangents,
    fake=_fake_tangents,
    saved=lambda *tensors: tensors,
    indices=("mask",),
    backward=FusedOp(
        "attention_tangents_backward",
        f"({_MOVED}, Tensor y, Tensor lse, Tensor dy, Tensor dlse, Tensor gy, Tensor glse, Tensor gdy, Tensor gdlse, "
        "bool causal, float scale) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        formula=_tangents_backward_formula,
        fake=lambda *tensors: _like(*tensors[:6]),
        indices=("mask",),
    ),
)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    r"""Let every query take its share of the values: :math:`y = \mathrm{softmax}(s\, q k^T)\, v`.

    Args:
        q: queries (B, \*heads, T, d), float32, float64, bfloat16 or float16; any strides, any length and width.
        k, v: keys (B, \*heads, S, d) and values (B, \*heads, S, e), of q's dtype.
        mask: (B, S), True where a key takes part (not padding); NaN in the others does no harm. None: all of them.
        causal: queries are the last T of the S tokens, and see none behind them.
        scale: s; :math:`1 / \sqrt d` if nothing is said.

    Returns:
        y, (B, \*heads, T, e), of q's dtype; the arithmetic is float32 or better. 0 where no key takes part, NaN in
        queries that see one, if causal perhaps in those before it.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, with both named.

    Cost: 2 B heads T S (d + e) multiplications and additions, half of them if causal, the gradient 2.5 times that;
    memory of what goes in and comes out. Sources: Vaswani et al. 2017 (arXiv:1706.03762); sums while the keys stream:
    Milakov, Gimelshein 2018 (arXiv:1805.02867); Dao et al. 2022 (arXiv:2205.14135).

    >>> q, v = torch.zeros(1, 1, 2), torch.tensor([[[1.0], [3.0], [8.0]]])
    >>> attention(q, torch.ones(1, 3, 2), v, mask=torch.tensor([[True, True, False]]))
    tensor([[[2.]]])
    """
    inputs = (_heads("q", q, 1), _heads("k", k, 1), _heads("v", v, 1))
    y, _ = _op((*inputs, _kept(mask, k), bool(causal), _scale(scale, q)))
    return y.reshape(*q.shape[:-1], v.shape[-1])


def attention_with_tangents(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dq: Tensor | None = None,
    dk: Tensor | None = None,
    dv: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Compute y of :func:`attention` and its derivatives along K directions of q, k and v, which share the softmax P.

    :math:`\dot y = (P \circ (\dot S - \mathrm{rowsum}(P \circ \dot S)))\, v + P\, \dot v` with
    :math:`\dot S = s\,(\dot q k^T + q \dot k^T)`.

    Args:
        dq, dk, dv: (B, K, \*heads, T, d), (B, K, \*heads, S, d) and (B, K, \*heads, S, e), of q's dtype; None of what
            does not move.

    Others, and errors, as :func:`attention`; ValueError where nothing moves.

    Returns:
        y, (B, \*heads, T, e), and its K derivatives, (B, K, \*heads, T, e); both differentiable, together with the
        tangents.

    Cost: 1 + 2 K times that of the values where all three move; the gradient, 2.5 times; memory of what goes in and
    comes out, where forward-mode AD keeps several matrices of T S a head. Sources: Lu, Song 2024 (arXiv:2410.11081),
    appendix on forward-mode flash attention; Geng et al. 2025 (arXiv:2505.13447).

    >>> q, v = torch.zeros(1, 1, 2), torch.tensor([[[1.0], [3.0]]])
    >>> attention_with_tangents(q, torch.ones(1, 2, 2), v, dv=torch.ones(1, 1, 2, 1))
    (tensor([[[2.]]]), tensor([[[[1.]]]]))
    """
    given = {"dq": (dq, q), "dk": (dk, k), "dv": (dv, v)}
    moved = [t for t, _ in given.values() if t is not None]
    if not moved:
        raise ValueError("attention_with_tangents: expected one of dq, dk and dv; got none")
    inputs = (_heads("q", q, 1), _heads("k", k, 1), _heads("v", v, 1))
    tangents = (
        like.new_zeros(len(like), 0, *whole.shape[1:]) if t is None else _heads(name, t, 2)
        for (name, (t, like)), whole in zip(given.items(), inputs)
    )
    y, _, dy, _ = _tangents((*inputs, *tangents, _kept(mask, k), bool(causal), _scale(scale, q)))
    shape = (*q.shape[1:-1], v.shape[-1])
    return y.reshape(len(q), *shape), dy.reshape(len(q), dy.shape[1], *shape)


def _heads(name: str, t: Tensor, before: int) -> Tensor:
    """(B, *heads, T, d) as (B, H, T, d), with `before` dimensions before the heads."""
    if t.ndim < before + 2:
        raise ValueError(
            f"attention: {name} must be (B, {'K, ' if before == 2 else ''}*heads, T, d); got {tuple(t.shape)}"
        )
    return t.unsqueeze(before) if t.ndim == before + 2 else t.flatten(before, -3) if t.ndim > before + 3 else t


def _kept(mask: Tensor | None, k: Tensor) -> Tensor:
    """The mask as the ops take it: integers, (B, 0) for all keys."""
    if mask is None:
        return k.new_empty(len(k), 0, dtype=torch.int64)
    if mask.dtype != torch.bool:
        raise TypeError(f"attention: mask must be bool, True where a key takes part; got {mask.dtype}")
    return mask.to(torch.int64, memory_format=torch.contiguous_format)


def _scale(scale: float | None, q: Tensor) -> float:
    return max(q.shape[-1], 1) ** -0.5 if scale is None else float(scale)
