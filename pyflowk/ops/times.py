"""The time that stands beside a state: one for all rows, or one for each."""

from __future__ import annotations

import torch
from torch import Tensor

from .dtypes import state_dtype
from .modes import transformed

__all__ = ["as_time", "require_times"]


def as_time(t: Tensor | float, x: Tensor) -> Tensor:
    """Return the time as a tensor () or (B,) of x's dtype (float32 for narrower ones) and device.

    A column (B, 1, ..., 1) beside x, as solvers hand out times of rows, is (B,) too. Raises ValueError for any other
    number of times.

    >>> as_time(0.5, torch.zeros(2, 3)), as_time(torch.tensor([[0.5], [0.25]]), torch.zeros(2, 3))
    (tensor(0.5000), tensor([0.5000, 0.2500]))
    """
    if isinstance(t, float):
        return torch.full((), t, dtype=state_dtype(x), device=x.device)  # filled there: nothing is copied to a card
    t = torch.as_tensor(t, dtype=state_dtype(x), device=x.device)
    if t.dim() > 1 and t.shape == (x.shape[0], *[1] * (x.dim() - 1)):
        return t.reshape(-1)
    if t.dim() > 1 or (t.dim() == 1 and t.shape[0] != x.shape[0]):
        raise ValueError(f"expected one time () or one for each of {x.shape[0]} rows, got {tuple(t.shape)}")
    return t


def require_times(owner: str, t: Tensor) -> None:
    """Raise ValueError for times outside of [0, 1] or NaN, where values can be looked at.

    >>> import torch
    >>> from pyflowk.ops.times import require_times
    >>> require_times("a path", torch.tensor([0.5, 1.5]))
    Traceback (most recent call last):
    ValueError: a path expects times from 0 to 1, got 1.5
    """
    if t.is_cpu and not transformed() and (strange := ~((t >= 0) & (t <= 1))).any():
        raise ValueError(f"{owner} expects times from 0 to 1, got {float(t[strange].flatten()[0]):.6g}")
