"""Random numbers: from the generator that was handed in, or from torch's own, and so that a compiler can trace them.

torch refuses ``generator=None`` itself where a size is symbolic (torch.compile at a second batch size, a dynamic batch
under torch.export): without a generator the argument must not be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

__all__ = ["draw_integers", "draw_keys", "draw_normal", "draw_uniform", "later_keys"]

GOLDEN = 0x9E3779B97F4A7C15  # odd: its multiples modulo 2^64, and so the keys of a row, are all different


def draw_uniform(
    shape: Sequence[int], generator: Generator | None, *, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Draw uniform numbers in [0, 1).

    >>> draw_uniform((2, 3), torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu").shape
    torch.Size([2, 3])
    """
    return torch.rand(shape, dtype=dtype, device=device, **_of(generator))


def draw_normal(
    shape: Sequence[int], generator: Generator | None, *, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, dtype=dtype, device=device, **_of(generator))


def draw_integers(
    low: int, high: int, shape: Sequence[int], generator: Generator | None, *, device: torch.device | str
) -> Tensor:
    """Draw integers in [low, high), int64, each as likely."""
    return torch.randint(low, high, shape, device=device, **_of(generator))


def draw_keys(rows: int, generator: Generator | None, *, device: torch.device | str) -> Tensor:
    """Draw a key for each row, (rows,), int64, of which `random_numbers` makes as many numbers as the row needs."""
    return draw_integers(0, 2**63 - 1, (rows,), generator, device=device)


def later_keys(keys: Tensor, count: int) -> Tensor:
    """The keys of the same rows for what they draw the ``count``-th time; 0 are the keys themselves."""
    number = GOLDEN * count % (1 << 64)
    return keys + (number - (1 << 64) if number >> 63 else number)


def _of(generator: Generator | None) -> dict[str, Any]:
    if generator is None:
        return {}
    if not isinstance(generator, Generator):
        got = type(generator).__name__
        raise TypeError(f"generator: expected a torch.Generator, as torch.Generator().manual_seed(0) is, got {got}")
    return {"generator": generator}
