"""The times of a solve: in the clock's type, in order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...ops.describe import described
from ...ops.modes import forward_or_functional

__all__ = ["check_order", "clock_times", "time_dtype"]


def time_dtype(y: Tensor) -> torch.dtype:
    """Of the solver's own clock: float64, where the device has it."""
    return torch.float32 if y.device.type == "mps" else torch.float64


def clock_times(t: Tensor | Sequence[float], y0: Tensor) -> Tensor:
    """The times on y0's device in the clock's type."""
    try:
        times = torch.as_tensor(t, dtype=None if isinstance(t, Tensor) else time_dtype(y0))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"t: expected times, (T,) or ({y0.shape[0]}, T); got {described(t)}") from error
    if times.ndim not in (1, 2) or times.shape[-1] < 1 or (times.ndim == 2 and times.shape[0] != y0.shape[0]):
        raise ValueError(f"t: expected (T,) or ({y0.shape[0]}, T) with T >= 1; got {tuple(times.shape)}")
    if not times.is_floating_point():
        raise TypeError(f"t: expected floating-point times; got {times.dtype}")
    return times.to(y0.device, time_dtype(y0))


def check_order(times: Tensor) -> None:
    """ValueError for times that are not finite, or turn around within a row."""
    if times.ndim == 1 and not forward_or_functional():
        values = times.tolist()
        right = all(map(math.isfinite, values)) and sorted(values, reverse=values[-1] < values[0]) == values
    else:
        step = times.diff(dim=-1)
        right = bool(times.isfinite().all() & ((step >= 0).all(-1) | (step <= 0).all(-1)).all())
    if not right:
        raise ValueError("t: expected finite times that rise or fall, row by row")
