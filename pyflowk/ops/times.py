"""The time that stands beside a state: one for all rows, or one for each."""

from __future__ import annotations

import torch
from torch import Tensor

from .dtypes import state_dtype

__all__ = ["as_time"]


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
