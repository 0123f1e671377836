"""Which part of an event a coupling transforms: the index arithmetic of every mask, in plain torch.

An event is (C, *rest); dimension 1 of a batch is C. The compiled kernels do the same arithmetic in `csrc/math/mask.h`.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "MASKS", "MASK_CODES", "checkerboard", "halves", "identity_part", "mask_code", "transformed_channels",
]  # fmt: skip

#: name -> code of the unswapped mask in `csrc/math/mask.h`; the swapped mask has the next code.
MASKS = {"all": 0, "half": 2, "channel": 2, "alternating": 4, "checkerboard": 6}
#: (name, swap) -> code; "all" has nothing to exchange.
MASK_CODES = {(name, swap): code + (swap and code > 0) for name, code in MASKS.items() for swap in (False, True)}


def mask_code(mask: str, swap: bool) -> int:
    """Return the kernel's integer for a mask name; ValueError lists the names there are."""
    try:
        return MASK_CODES[mask, bool(swap)]
    except (KeyError, TypeError):
        raise ValueError(f"mask: expected one of {', '.join(MASKS)}; got {mask!r}") from None


def slices(channels: int, code: int) -> tuple[slice, slice]:
    """Return the (identity, transformed) slices of dimension 1 for every mask but the checkerboard."""
    kind, swap = code & ~1, code & 1
    if kind == MASKS["all"]:
        return slice(0, 0), slice(0, channels)
    if kind == MASKS["half"]:
        pair = slice(0, channels // 2), slice(channels // 2, channels)
    else:
        pair = slice(0, None, 2), slice(1, None, 2)
    return (pair[1], pair[0]) if swap else pair


def halves(x: Tensor, swap: bool = False) -> tuple[Tensor, Tensor]:
    """Return the (identity, transformed) parts of the mask "half" by one split, whose gradient is one concatenation."""
    first, second = x.split((x.shape[1] // 2, x.shape[1] - x.shape[1] // 2), 1)
    return (second, first) if swap else (first, second)


def checkerboard(x: Tensor, code: int) -> Tensor:
    """Return a boolean (H, W) that is True where the checkerboard transforms."""
    rows = torch.arange(x.shape[-2], device=x.device)
    columns = torch.arange(x.shape[-1], device=x.device)
    return (rows[:, None] + columns) % 2 != (code & 1)


def identity_part(x: Tensor, mask: str = "half", swap: bool = False) -> Tensor:
    """Return what a coupling leaves as it is, as the conditioner should see it.

    A view of x (B, C, *rest) along dimension 1; for a checkerboard, x with the transformed positions set to zero;
    for "all", an empty (B, 0, *rest).

    >>> identity_part(torch.arange(4.0).view(1, 4), "alternating")
    tensor([[0., 2.]])
    """
    code = mask_code(mask, swap)
    if code & ~1 == MASKS["checkerboard"]:
        return x.masked_fill(checkerboard(x, code), 0)
    return x[:, slices(x.shape[1], code)[0]]


def transformed_channels(channels: int, mask: str = "half", swap: bool = False) -> int:
    """Count the channels of `channels` that a coupling needs parameters for (all of them for a checkerboard).

    >>> transformed_channels(5, "half"), transformed_channels(5, "half", swap=True)
    (3, 2)
    """
    code = mask_code(mask, swap)
    if code & ~1 == MASKS["checkerboard"]:
        return channels
    return len(range(channels)[slices(channels, code)[1]])
