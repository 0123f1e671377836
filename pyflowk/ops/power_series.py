"""The series of log det(I + J) for the Jacobian of a chain of matrices and slopes: all terms in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._router import FusedOp

__all__ = ["MOST_FACTORS", "coefficient_of", "power_series", "power_series_by"]

MOST_FACTORS, MOST_TERMS = 5, 1 << 16  # kMostFactors and kMostTerms of csrc/math/power_series.h


def power_series_by(
    pull: Callable[[Tensor], Tensor],
    probe: Tensor,
    reached: Tensor | None,
    terms: int,
    exact_terms: int = 1,
    survival: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """:func:`power_series` in plain torch, for any v -> J^T v and (B, *event) probes; without `reached`, all terms."""
    w, v, total = probe, torch.zeros_like(probe), torch.zeros_like(probe)
    for k in range(1, terms + 1):
        coefficient = coefficient_of(k, exact_terms, survival)
        term = coefficient * w
        w = pull(w)
        trace = coefficient / k * w
        if reached is not None:
            goes_on = (reached >= k).reshape(-1, *[1] * (w.dim() - 1))
            term, trace = torch.where(goes_on, term, 0), torch.where(goes_on, trace, 0)
        v, total = v + term, total + trace
    return (total * probe).flatten(1).sum(1), v


def coefficient_of(k: int, exact_terms: int, survival: float) -> float:
    """Return the coefficient of term k, with its sign."""
    return (1 if k % 2 else -1) * survival ** min(0, exact_terms - k)


def _factors(slopes: Sequence[Tensor], weights: Sequence[Tensor]) -> list[tuple[Tensor | None, Tensor]]:
    """(slopes that a product with the matrix meets, the matrix), last layer first."""
    return list(zip([*reversed(slopes), None], reversed(weights)))


def _formula(
    probe: Tensor,
    slopes: Sequence[Tensor],
    weights: Sequence[Tensor],
    reached: Tensor,
    terms: int,
    exact_terms: int,
    survival: float,
) -> tuple[Tensor, Tensor]:
    """The op in plain torch: the reference of every kernel."""
    factors = _factors(slopes, weights)

    def pull(v: Tensor) -> Tensor:
        for slope, weight in factors:
            v = v @ weight if slope is None else (v @ weight) * slope
        return v

    return power_series_by(pull, probe, reached, terms, exact_terms, survival)


def _backward_formula(
    probe: Tensor,
    slopes: Sequence[Tensor],
    weights: Sequence[Tensor],
    reached: Tensor,
    dvalue: Tensor,
    dv: Tensor,
    *config: Any,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Back through the terms, whose products are all kept: plain torch, so that derivatives of every order exist."""
    terms, exact_terms, survival = config
    factors = _factors(slopes, weights)
    w, total, kept = probe, torch.zeros_like(probe), []
    for k in range(1, terms + 1):
        ways = []
        for slope, weight in factors:
            product = w @ weight
            ways.append((w, product))
            w = product if slope is None else product * slope
        coefficient = torch.where(reached >= k, coefficient_of(k, exact_terms, survival), 0.0).to(w).unsqueeze(1)
        kept.append((coefficient, ways))
        total = total + coefficient / k * w
    dtotal, dw = dvalue.unsqueeze(1) * probe, torch.zeros_like(probe)
    dslopes = [torch.zeros_like(slope) for slope, _ in factors if slope is not None]
    dweights = [torch.zeros_like(weight) for _, weight in factors]
    for k, (coefficient, ways) in reversed(list(enumerate(kept, start=1))):
        dw = dw + coefficient / k * dtotal
        for i, (slope, weight) in reversed(list(enumerate(factors))):
            before, product = ways[i]
            if slope is not None:
                dslopes[i] = dslopes[i] + dw * product
                dw = dw * slope
            dweights[i] = dweights[i] + before.mT @ dw
            dw = dw @ weight.mT
        dw = dw + coefficient * dv
    return dw + dvalue.unsqueeze(1) * total, dslopes[::-1], dweights[::-1]


def _check_count(slopes: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    if not 2 <= len(weights) <= MOST_FACTORS or len(slopes) != len(weights) - 1:
        raise ValueError(
            f"power_series: expected 2 to {MOST_FACTORS} weights and one slope less; "
            f"got {len(weights)} and {len(slopes)}"
        )


def _check(
    probe: Tensor,
    slopes: Sequence[Tensor],
    weights: Sequence[Tensor],
    reached: Tensor,
    terms: int,
    exact_terms: int,
    survival: float,
) -> None:
    """What `csrc/bind/power_series.cpp` checks, for the paths that do not go through it."""
    _check_count(slopes, weights)
    if probe.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"power_series: probe must be float32 or float64; got {probe.dtype}")
    if probe.ndim != 2 or probe.shape[1] < 1:
        raise ValueError(f"power_series: probe must be (B, D); got {tuple(probe.shape)}")
    if terms < 0 or exact_terms < 1 or not 0 < survival <= 1:
        raise ValueError(
            "power_series: expected terms >= 0, exact_terms >= 1 and 0 < survival <= 1; got "
            f"{terms}, {exact_terms} and {survival}"
        )
    if terms > MOST_TERMS:  # which this formula computes, reached or not
        raise ValueError(f"power_series: a row may reach {MOST_TERMS} terms; got {terms}")
    rows, size = probe.shape
    widths = [size, *(weight.shape[0] if weight.ndim else 0 for weight in weights[:-1]), size]
    expected = [(f"weight {i}", w, (widths[i + 1], widths[i])) for i, w in enumerate(weights)]
    expected += [(f"slope {i}", s, (rows, widths[i + 1])) for i, s in enumerate(slopes)]
    for name, tensor, shape in (*expected, ("reached", reached, (rows,))):
        dtype = torch.int64 if name == "reached" else probe.dtype
        if tensor.dtype != dtype:
            raise TypeError(f"power_series: {name} must be {dtype}; got {tensor.dtype}")
        if tensor.device != probe.device:
            raise ValueError(
                f"power_series: probe and {name} must be on one device; got {probe.device} and {tensor.device}"
            )
        if tensor.shape != shape or 0 in shape[1:]:
            raise ValueError(f"power_series: {name} must be {shape}; got {tuple(tensor.shape)}")


def _check_backward(
    probe: Tensor,
    slopes: Sequence[Tensor],
    weights: Sequence[Tensor],
    reached: Tensor,
    dvalue: Tensor,
    dv: Tensor,
    *config: Any,
) -> None:
    _check(probe, slopes, weights, reached, *config)
    for name, tensor, shape in (("dvalue", dvalue, probe.shape[:1]), ("dv", dv, probe.shape)):
        if tensor.shape != shape:
            raise ValueError(f"power_series: {name} must be {tuple(shape)}; got {tuple(tensor.shape)}")


_power_series = FusedOp(
    "power_series",
    "(Tensor probe, Tensor[] slopes, Tensor[] weights, Tensor reached, int terms, int exact_terms, float survival) -> "
    "(Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=lambda probe, *rest: (probe.new_empty(probe.shape[0]), probe.new_empty(probe.shape)),
    saved=lambda probe, slopes, weights, reached, *outputs: (probe, slopes, weights, reached),
    shared=("weights",),
    indices=("reached",),
    expand_below=0,
    backward=FusedOp(
        "power_series_backward",
        "(Tensor probe, Tensor[] slopes, Tensor[] weights, Tensor reached, Tensor dvalue, Tensor dv, int terms, "
        "int exact_terms, float survival) -> (Tensor, Tensor[], Tensor[])",
        formula=_backward_formula,
        check=_check_backward,
        fake=lambda probe, slopes, weights, *rest: (
            probe.new_empty(probe.shape),
            [t.new_empty(t.shape) for t in slopes],
            [t.new_empty(t.shape) for t in weights],
        ),
        shared=("weights",),
        indices=("reached",),
    ),
)


def power_series(
    probe: Tensor,
    slopes: Sequence[Tensor],
    weights: Sequence[Tensor],
    reached: Tensor | None = None,
    *,
    terms: int,
    exact_terms: int = 1,
    survival: float = 1.0,
) -> tuple[Tensor, Tensor]:
    r"""Estimate log det(I + J) by rows for a network's Jacobian :math:`J = W_n S_{n-1} W_{n-1} \cdots S_1 W_1`.

    S are the diagonal matrices of a row's slopes. With :math:`w_0 = \epsilon` and :math:`w_k = J^T w_{k-1}`, for a row
    that has N terms,

    .. math:: \sum_{k=1}^N \frac{(-1)^{k+1}}{k} c_k \langle w_k, \epsilon \rangle \quad\text{and}\quad
              v = \sum_{k=1}^N (-1)^{k+1} c_k w_{k-1}, \quad c_k = q^{-\max(0, k - \mathrm{exact})}.

    The first is the truncated series (q = 1), or an unbiased estimate of the whole one where N is random with
    :math:`P(N \ge k) = 1 / c_k`; the gradient of its mean is that of :math:`v^T J \epsilon` with v held constant.

    Args:
        probe: :math:`\epsilon`, (B, D), float32 or float64, as are the others; any strides.
        slopes: the activations' derivatives, (B, H) of each hidden layer.
        weights: of 2 to 5 layers, (out, in) each as `torch.nn.Linear` has them.
        reached: N, (B,), int64; None: `terms` everywhere. What is above `terms` is taken for `terms`.
        terms: the most terms; a row may reach 65536.
        exact_terms: the terms whose coefficient is 1.
        survival: q, above 0 and at most 1.

    Returns:
        value (B,) and v (B, D), bitwise the same for any batch mates.

    Raises:
        ValueError, TypeError: another number of layers; shapes, dtypes or devices that do not fit, with both named.

    Cost: a row's own N products with J^T; on a GPU every row of 32 neighbours costs the largest N of them. Nobody waits
    for the device. Derivatives: those of the formula, of every order.
    Sources: Behrmann et al. 2019 (arXiv:1811.00995); Chen et al. 2019 (arXiv:1906.02735).

    >>> halves = [torch.full((1, 1), 0.5), torch.ones(1, 1)]  # J = 1/2
    >>> value, v = power_series(torch.ones(1, 1), [torch.ones(1, 1)], halves, terms=20)
    >>> value, v  # log(1 + 1/2) and 1 / (1 + 1/2)
    (tensor([0.4055]), tensor([[0.6667]]))
    """
    _check_count(slopes, weights)
    if reached is None:
        reached = torch.full(probe.shape[:1], terms, dtype=torch.int64, device=probe.device)
    return _power_series((probe, [*slopes], [*weights], reached.contiguous(), terms, exact_terms, survival))
