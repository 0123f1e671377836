"""What is asked of token sequences before a kernel sees them: symbols within their number, lengths within their rows,
chances that are some.

Values are looked at on the CPU alone, and nowhere that they may not be.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .modes import transformed

__all__ = ["check_lengths", "check_no_mask", "check_range", "check_symbols"]

_ROUNDING = 1e-5  # how far above 1 it may have brought a chance


def check_symbols(op: str, what: str, x: Tensor, size: int, mask: int = -1, data: Tensor | None = None) -> None:
    """Raise ValueError, in the name of `op`, where x holds what is neither a symbol 0 to size - 1 nor the mask;
    negative numbers are left out where those of `data`, if there are any, are negative, too: padding."""
    if not _seen(x):
        return
    least, most = (int(end) for end in x.aminmax())
    if least >= 0 and most < size + (mask == size):
        return
    asked = x < 0 if data is None else (x < 0) & (data >= 0)
    strange = asked | (x >= size)
    strange = x[strange if mask < 0 else strange & (x != mask)]
    if strange.numel():
        beside = "" if mask < 0 else f", or the mask {mask}"
        raise ValueError(f"{op}: {what} must hold symbols 0 to {size - 1}{beside}; got {int(strange[0])}")


def check_no_mask(op: str, what: str, x: Tensor, mask: int) -> None:
    """Raise ValueError, in the name of `op`, where the mask is among data x."""
    if mask >= 0 and _seen(x) and bool((x == mask).any()):
        raise ValueError(f"{op}: {what} must not hold the mask; got {mask}")


def check_lengths(op: str, what: str, lengths: Tensor, x: Tensor) -> None:
    """Raise ValueError or TypeError, in the name of `op`, unless lengths are int64, one a row of x (B, N), 0 to N."""
    if lengths.dtype != torch.int64:
        raise TypeError(f"{op}: {what} must be int64; got {lengths.dtype}")
    if lengths.shape != x.shape[:1] or lengths.device != x.device:
        raise ValueError(
            f"{op}: {what} must be ({x.shape[0]},), one a row, on {x.device}; got {tuple(lengths.shape)} on "
            f"{lengths.device}"
        )
    if _seen(lengths):
        least, most = (int(end) for end in lengths.aminmax())
        if least < 0 or most > x.shape[1]:
            raise ValueError(f"{op}: {what} must be 0 to {x.shape[1]}; got {least} to {most}")


def check_range(op: str, what: str, values: float | Tensor, least: float, most: float) -> None:
    """Raise ValueError, in the name of `op`, for numbers that are not `least` to `most`, such as NaN."""
    if isinstance(values, Tensor):
        if not _seen(values):
            return
        strange = values[~((values >= least) & (values <= most + _ROUNDING))]
        if not strange.numel():
            return
        values = strange[0].item()
    if not least <= values <= most + _ROUNDING:
        bounded = f"at least {least:g}" if math.isinf(most) else f"{least:g} to {most:g}"
        expected = "a number" if math.isinf(least) else bounded
        raise ValueError(f"{op}: {what} must be {expected}; got {values:g}")


def _seen(x: Tensor) -> bool:
    return x.is_cpu and x.numel() > 0 and not transformed()
