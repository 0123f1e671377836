"""Forces of drifting: where generated points are to go, towards those of the data and away from each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .dtypes import FLOATING, state_dtype
from .sinkhorn import sinkhorn, sinkhorn_plan

__all__ = ["Drift", "drift"]

NORMALISATIONS = ("row", "double", "sinkhorn")
KERNELS = ("laplace", "gaussian")


class Drift(NamedTuple):
    """What `drift` found: ``forces`` (T, B, D), one for each temperature, and the ``scale`` () of the distances."""

    forces: Tensor
    scale: Tensor


def drift(
    y: Tensor,
    x: Tensor,
    temperatures: Sequence[float] = (0.02, 0.05, 0.2),
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

    Cost: B (B + N) (D + T) operations T times, and memory for B (B + N) numbers.
    Deng et al., 2026, arXiv:2602.04770; "sinkhorn": He et al., 2026, arXiv:2603.12366.

    >>> forces, scale = drift(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [4.0]]), [1.0], "row")
    >>> scale, (forces > 0).all()
    (tensor(2.3333), tensor(True))
    """
    _check(y, x, temperatures, normalise, kernel, scale)
    with torch.no_grad():
        dtype = state_dtype(y)
        centre = x.to(dtype).mean(0) if len(x) else torch.zeros((), dtype=dtype, device=y.device)
        y, x = y.to(dtype) - centre, x.to(dtype) - centre
        apart = torch.cdist(y, torch.cat([x, y]))  # (B, N + B)
        own = torch.eye(len(y), dtype=torch.bool, device=y.device)
        itself = torch.cat([own.new_zeros(len(y), len(x)), own], 1)
        pairs = max(1, len(y) * (len(x) + len(y) - 1))
        unit = (apart.masked_fill(itself, 0).sum() / pairs) if scale is None else apart.new_tensor(scale)
        apart = apart / unit.clamp_min(torch.finfo(dtype).tiny)
        force = _plans if normalise == "sinkhorn" else _affinities
        exponent = (apart.square() / 2) if kernel == "gaussian" else apart
        power = 2 if kernel == "gaussian" else 1
        found = [force(y, x, exponent, itself, t**power, normalise) for t in temperatures]
        return Drift(torch.stack(found) if found else y.new_empty(0, *y.shape), unit)


def _affinities(y: Tensor, x: Tensor, exponent: Tensor, itself: Tensor, t: float, normalise: str) -> Tensor:
    logits = (-exponent / t).masked_fill(itself, -math.inf)
    logs = logits - _finite(logits.logsumexp(1, keepdim=True))
    if normalise == "double":
        logs = (logs + logits - _finite(logits.logsumexp(0, keepdim=True))) / 2
    a = logs.exp()
    near, far = a[:, : len(x)], a[:, len(x) :]
    return far.sum(1, keepdim=True) * (near @ x) - near.sum(1, keepdim=True) * (far @ y)


def _finite(sums: Tensor) -> Tensor:
    """Logarithms of sums, of which one over nothing divides by 1."""
    return sums.masked_fill(sums == -math.inf, 0)


def _plans(y: Tensor, x: Tensor, exponent: Tensor, itself: Tensor, t: float, normalise: str) -> Tensor:
    ends = [(costs, sinkhorn(costs, None, t)) for costs in exponent.split([len(x), len(y)], 1)]
    (towards, away) = (sinkhorn_plan(costs, None, potentials, t) for costs, potentials in ends)
    return len(y) * (towards @ x - away @ y)


def _check(
    y: Tensor, x: Tensor, temperatures: Sequence[float], normalise: str, kernel: str, scale: float | None
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
