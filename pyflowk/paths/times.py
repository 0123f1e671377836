"""At which times a path is looked at in training: functions of how many, from a generator."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Generator, Tensor

from ..ops.draw import draw_uniform


class Times(Protocol):
    """Whatever draws n times (n,) in [0, 1] from a generator."""

    def __call__(
        self, n: int, generator: Generator | None, *, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor: ...


def uniform_times(
    n: int, generator: Generator | None = None, *, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Draw n times (n,) in [0, 1), each as likely.

    >>> import torch
    >>> from pyflowk.paths import uniform_times
    >>> uniform_times(3, torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu").shape
    torch.Size([3])
    """
    return draw_uniform((n,), generator, dtype=dtype, device=device)
