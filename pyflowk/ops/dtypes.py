"""Which dtypes ops take, and which they compute in."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FLOATING", "state_dtype"]

#: what a state may be stored in.
FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def state_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of arithmetic, log-determinants, steps and times beside x: float64 for float64, else float32.

    >>> state_dtype(torch.zeros(1, dtype=torch.bfloat16))
    torch.float32
    """
    return torch.float64 if x.dtype == torch.float64 else torch.float32
