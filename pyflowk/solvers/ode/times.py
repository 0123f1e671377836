"""The times of a solve: in the clock's type, in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...ops.describe import described
from ...ops.modes import capturing, compiling, forward_or_functional

__all__ = ["check_order", "clock_times", "time_dtype", "times_beside"]


def time_dtype(y: Tensor) -> torch.dtype:
    """Of the solver's own clock: float64, where the device has it."""
    return torch.float32 if y.device.type == "mps" else torch.float64


def clock_times(t: Tensor | Sequence[float], y0: Tensor) -> Tensor:
    """The times on y0's device in the clock's type."""
    try:
        if compiling() and isinstance(t, (list, tuple)) and not y0.is_cpu:
            t = _filled(t, y0)  # a tensor on the CPU would keep the whole out of a CUDA graph
        times = torch.as_tensor(t, dtype=None if isinstance(t, Tensor) else time_dtype(y0))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"t: expected times, (T,) or ({y0.shape[0]}, T); got {described(t)}") from error
    if times.ndim not in (1, 2) or times.shape[-1] < 1 or (times.ndim == 2 and times.shape[0] != y0.shape[0]):
        raise ValueError(f"t: expected (T,) or ({y0.shape[0]}, T) with T >= 1; got {tuple(times.shape)}")
    if not times.is_floating_point():
        raise TypeError(f"t: expected floating-point times; got {times.dtype}")
    return times_beside(times, y0)


def times_beside(times: Tensor, y: Tensor) -> Tensor:
    """The times where y is, in the clock's type. The host does not wait for a card, and a CUDA graph that is captured
    there holds the numbers themselves: it would read a copy of them at every replay, from memory long gone."""
    if times.is_cpu and capturing(y) and not times.requires_grad:
        return _filled(times.tolist(), y)
    return times.to(y.device, time_dtype(y), non_blocking=times.is_cpu)


def _filled(numbers: Any, like: Tensor) -> Tensor:
    """A tensor of numbers, or lists of them, that no copy brings to its device."""
    if isinstance(numbers, Sequence):
        return torch.stack([_filled(part, like) for part in numbers])
    return torch.full((), numbers, dtype=time_dtype(like), device=like.device)


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
