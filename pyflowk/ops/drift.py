"""Forces of drifting: where generated points are to go, towards those of the data and away from each other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import FLOATING, state_dtype
from .sinkhorn import sinkhorn, sinkhorn_plan

__all__ = ["Drift", "drift"]

NORMALISATIONS = ("row", "double", "sinkhorn")
KERNELS = ("laplace", "gaussian")
FEW, KEPT = 16, 2**22  # coordinates whose distances are found again wherever they are asked for; distances kept of more


def _distances(y: Tensor, x: Tensor) -> Tensor:
    """Those of y from x, (B, N)."""
    return torch.cdist(y.to(state_dtype(y)), x.to(state_dtype(x)), compute_mode="donot_use_mm_for_euclid_dist")


def _pairs(y: Tensor, x: Tensor, apart: Tensor, own: int, squares: bool) -> tuple[Tensor, Tensor]:
    """Distances or their squares, known ones or those of the points, and which are from a point to itself."""
    rows, columns = (torch.arange(len(points), device=y.device) for points in (y, x))
    apart = apart if apart.shape[1] else _distances(y, x)
    return apart.square() if squares else apart, rows[:, None] + own == columns


def _sums_formula(
    y: Tensor, x: Tensor, apart: Tensor, rates: Tensor, own: int, data: int, squares: bool, keep: bool, turned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithms of sums of exponentials over the data and over others (B, 2, T), sums of distances (B,), and these.

    They may be known: `apart` is (B, N), or (N, B) if `turned`; none of them to have them found."""
    apart = apart.T if turned and apart.shape[1] else apart
    found = (apart.clone() if apart.shape[1] else _distances(y, x)) if keep else apart.new_empty(len(y), 0)
    apart, itself = _pairs(y, x, apart, own, squares)
    logits = [(rate * apart).masked_fill(itself, -math.inf) for rate in rates.to(apart.dtype)]
    logs = [torch.stack([side.logsumexp(1) for side in (t[:, :data], t[:, data:])], 1) for t in logits]
    sums = torch.stack(logs, 2) if logs else apart.new_empty(len(y), 2, 0)
    return sums, apart.masked_fill(itself, 0).sum(1), found


def _forces_formula(
    y: Tensor, x: Tensor, apart: Tensor, rates: Tensor, left: Tensor, right: Tensor, own: int, data: int, squares: bool
) -> tuple[Tensor]:
    """The forces (T, B, D) of weights exp(rate t - left - right), where the first of x are data."""
    apart, itself = _pairs(y, x, apart, own, squares)
    x, found = x.to(apart.dtype), []
    for rate, rows, columns in zip(rates.to(apart.dtype), left.T, right.T, strict=True):
        a = (rate * apart - rows[:, None] - columns).exp().masked_fill(itself, 0)
        near, far = a[:, :data], a[:, data:]
        found.append(far.sum(1, keepdim=True) * (near @ x[:data]) - near.sum(1, keepdim=True) * (far @ x[data:]))
    return (torch.stack(found) if found else apart.new_empty(0, *y.shape),)


def _check_points(y: Tensor, x: Tensor, apart: Tensor, rates: Tensor, data: int, turned: bool = False) -> None:
    """What `csrc/bind/drift.cpp` checks, for the paths that do not go through it."""
    if y.ndim != 2 or x.ndim != 2 or y.shape[1] != x.shape[1]:
        raise ValueError(f"drift: expected y (B, D) and x (N, D); got {tuple(y.shape)} and {tuple(x.shape)}")
    if y.dtype not in FLOATING:
        raise TypeError(f"drift: y must be float32, float64, bfloat16 or float16; got {y.dtype}")
    for what, t, dtype in (("x", x, y.dtype), ("apart", apart, state_dtype(y)), ("rates", rates, torch.float64)):
        if t.dtype != dtype:
            raise TypeError(f"drift: {what} must be {dtype}; got {t.dtype}")
        if t.device != y.device:
            raise ValueError(f"drift: y and {what} must be on one device; got {y.device} and {t.device}")
    rows, columns = (len(x), len(y)) if turned else (len(y), len(x))
    if apart.shape not in ((rows, columns), (rows, 0)):
        raise ValueError(f"drift: apart must be {(rows, columns)} or {(rows, 0)}; got {tuple(apart.shape)}")
    if rates.ndim != 1:
        raise ValueError(f"drift: rates must be (T,); got {tuple(rates.shape)}")
    if not 0 <= data <= len(x):
        raise ValueError(f"drift: expected 0 to {len(x)} points of the data; got {data}")


def _check_sums(
    y: Tensor, x: Tensor, apart: Tensor, rates: Tensor, own: int, data: int, squares: bool, keep: bool, turned: bool
) -> None:
    _check_points(y, x, apart, rates, data, turned)


def _check_forces(
    y: Tensor, x: Tensor, apart: Tensor, rates: Tensor, left: Tensor, right: Tensor, own: int, data: int, squares: bool
) -> None:
    _check_points(y, x, apart, rates, data)
    for what, t, rows in (("left", left, len(y)), ("right", right, len(x))):
        if t.dtype != state_dtype(y):
            raise TypeError(f"drift: {what} must be {state_dtype(y)}; got {t.dtype}")
        if t.device != y.device:
            raise ValueError(f"drift: y and {what} must be on one device; got {y.device} and {t.device}")
        if t.shape != (rows, len(rates)):
            raise ValueError(f"drift: {what} must be ({rows}, {len(rates)}); got {tuple(t.shape)}")


_sums = FusedOp(
    "drift_sums",
    "(Tensor y, Tensor x, Tensor apart, Tensor rates, int own, int data, bool squares, bool keep, bool turned) -> "
    "(Tensor, Tensor, Tensor)",
    formula=_sums_formula,
    check=_check_sums,
    fake=lambda y, x, apart, rates, own, data, squares, keep, turned: (
        y.new_empty((y.shape[0], 2, rates.shape[0]), dtype=state_dtype(y)),
        y.new_empty(y.shape[:1], dtype=state_dtype(y)),
        y.new_empty((y.shape[0], x.shape[0] if keep else 0), dtype=state_dtype(y)),
    ),
    expand_below=0,
)
_forces = FusedOp(
    "drift",
    "(Tensor y, Tensor x, Tensor apart, Tensor rates, Tensor left, Tensor right, int own, int data, bool squares) -> "
    "Tensor",
    formula=_forces_formula,
    check=_check_forces,
    fake=lambda y, x, apart, rates, left, right, own, data, squares: (
        y.new_empty((rates.shape[0], *y.shape), dtype=state_dtype(y)),
    ),
    expand_below=0,
)


class Drift(NamedTuple):
    """What `drift` found: ``forces`` (T, B, D), one for each temperature, and the ``scale`` () of the distances."""

    forces: Tensor
    scale: Tensor


def drift(
    y: Tensor,
    x: Tensor,
    temperatures: Iterable[float] = (0.02, 0.05, 0.2),
    normalise: str = "double",
    kernel: str = "laplace",
    scale: float | None = None,
) -> Drift:
    r"""Where generated points y are to go: towards data x and away from each other, once for each temperature.

    .. math:: V_i = S_i^- \sum_j A_{ij}^+ x_j - S_i^+ \sum_{k \ne i} A_{ik}^- y_k, \qquad S_i^\pm = \sum_j A_{ij}^\pm

    A are affinities of y to all of (x, y) but itself: the kernel :math:`e^{-d / \tau}` ("laplace") or :math:`e^{-d^2 /
    2 \tau^2}` ("gaussian") of distances d in units of ``scale``, the mean distance if none is given, over the sum of
    its row (``normalise`` "row"), or over the root of that times the sum of its column ("double"): a column is a
    point that all of y share. The weights of a row sum to zero, and where y and x are of one distribution, so do forces
    on average. That they are zero does not mean the converse; it does for "sinkhorn",

    .. math:: V_i = \sum_j P_{ij}^+ x_j - \sum_k P_{ik}^- y_k,

    with P the rows of the entropic plans of y to x and of y to itself: with a Gaussian kernel that is the gradient of
    a Sinkhorn divergence.

    Args:
        y: (B, D), generated points, float32, float64, bfloat16 or float16.
        x: (N, D), points of the data, of the same dtype.
        temperatures: T numbers above 0, in units of the scale.
        normalise: "row", "double" or "sinkhorn".
        kernel: "laplace" or "gaussian".
        scale: of distances, above 0.

    Returns:
        Forces (T, B, D) in the units of y, and the scale (), float32 or better; they have no gradient. A NaN anywhere
        makes all of them NaN; without data, or with a single point to drive, forces are 0 unless by "sinkhorn".

    Raises:
        ValueError, TypeError: shapes, dtypes, devices or names that do not fit; temperatures or a scale not above 0.

    Cost: distances of B (B + N) pairs, the exponentials of T temperatures up to three times, and T products of
    B (B + N) D multiplications and additions; on a CPU memory for T (B + N) numbers, and with more than 16 coordinates
    for up to 4 million distances (if there are more of them, they are found four times), elsewhere and for "sinkhorn"
    for B (B + N).
    Deng et al., 2026, arXiv:2602.04770; "sinkhorn": He et al., 2026, arXiv:2603.12366.

    >>> forces, scale = drift(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [4.0]]), [1.0], "row")
    >>> scale, (forces > 0).all()
    (tensor(2.3333), tensor(True))
    """
    temperatures = as_temperatures(temperatures)
    _check(y, x, temperatures, normalise, kernel, scale)
    y, x = y.detach().to(state_dtype(y)), x.detach().to(state_dtype(x))
    centre = x.mean(0) if len(x) else x.new_zeros(x.shape[1])
    rows, data, squares = len(y), len(x), kernel == "gaussian"
    others = torch.cat([x, y]).sub_(centre)
    x, y = others[:data], others[data:]
    keep, apart = y.shape[1] > FEW and rows * len(others) <= KEPT, y.new_empty(rows, 0)
    if keep or scale is None:
        _, totals, apart = _sums(
            (y, others, apart, y.new_empty(0, dtype=torch.float64), data, data, False, keep, False)
        )
    if scale is None:
        unit = totals.double().sum().to(y.dtype) / max(1, rows * (data + rows - 1))
    else:
        unit = y.new_tensor(scale)
    least = unit.double().clamp_min(1e-15 if squares else 1e-30)  # rates of equal points are finite in float32
    ranges = torch.tensor(temperatures, dtype=torch.float64, device=y.device) * least
    rates = -0.5 * ranges**-2 if squares else -1 / ranges
    if normalise == "sinkhorn":
        return Drift(_plans(y, others, data, rates, squares), unit)
    sides = _sums((y, others, apart, rates, data, data, squares, False, False))[0]
    left = _settled(sides.logsumexp(1))
    right = left.new_zeros(len(others), len(rates))
    if normalise == "double":  # columns of y are its rows: distances among them are the same both ways
        towards = _sums((x, y, apart[:, :data], rates, -data, rows, squares, False, True))[0]
        left, right = left / 2, _settled(torch.cat([towards[:, 0], sides[:, 1]])) / 2
    return Drift(_forces((y, others, apart, rates, left, right, data, data, squares))[0], unit)


def _settled(logs: Tensor) -> Tensor:
    """Logarithms of sums, 0 instead of those over nobody."""
    return logs.masked_fill(logs == -math.inf, 0)


def _plans(y: Tensor, others: Tensor, data: int, rates: Tensor, squares: bool) -> Tensor:
    """Towards the data by one plan, and away by that of y to itself."""
    apart, found = _distances(y, others), []
    apart = apart.square() if squares else apart
    for rate in (-rates).tolist():
        ends = [
            sinkhorn_plan(costs, None, sinkhorn(costs, None, 1 / rate), 1 / rate) @ points
            for costs, points in ((apart[:, :data], others[:data]), (apart[:, data:], y))
        ]
        found.append(len(y) * (ends[0] - ends[1]))
    return torch.stack(found) if found else y.new_empty(0, *y.shape)


def as_temperatures(temperatures: Iterable[float]) -> tuple[float, ...]:
    """All of them, gone through once; TypeError for what is no sequence of numbers."""
    given = tuple(temperatures) if isinstance(temperatures, Iterable) else (None,)
    if not all(isinstance(t, (Real, Tensor)) for t in given):
        raise TypeError(f"drift: temperatures must be a sequence of numbers; got {temperatures!r}")
    return tuple(float(t) for t in given)


def _check(
    y: Tensor, x: Tensor, temperatures: tuple[float, ...], normalise: str, kernel: str, scale: float | None
) -> None:
    if y.ndim != 2 or x.ndim != 2 or y.shape[1] != x.shape[1]:
        raise ValueError(f"drift: expected y (B, D) and x (N, D); got {tuple(y.shape)} and {tuple(x.shape)}")
    if y.dtype not in FLOATING or x.dtype != y.dtype:
        raise TypeError(
            f"drift: y and x must be of one dtype, float32, float64 or of 16 bits; got {y.dtype}, {x.dtype}"
        )
    if y.device != x.device:
        raise ValueError(f"drift: y and x must be on one device; got {y.device} and {x.device}")
    if normalise not in NORMALISATIONS:
        raise ValueError(f"drift: normalise must be one of {', '.join(NORMALISATIONS)}; got {normalise!r}")
    if kernel not in KERNELS:
        raise ValueError(f"drift: kernel must be one of {', '.join(KERNELS)}; got {kernel!r}")
    for what, number in [("temperatures", t) for t in temperatures] + [("scale", 1.0 if scale is None else scale)]:
        if not 0 < number < math.inf:
            raise ValueError(f"drift: {what} must be finite and above 0; got {number}")
    if normalise == "sinkhorn" and len(x) == 0 and len(y) > 0:
        raise ValueError("drift: there is no data to transport to")
