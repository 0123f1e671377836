"""What a case of an op is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Dtypes = tuple[torch.dtype, torch.dtype]

#: (state, params) dtypes that an op may take.
DTYPES: list[Dtypes] = [
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float16),
]


@dataclass(frozen=True)
class OpCase:
    """One way to call an op: `call(*tensors, **more)`, and `inputs(rows, *dtypes)` that makes its real tensors.

    Integer tensors and configuration are part of `call`.
    """

    name: str
    op: str
    call: Callable[..., tuple[Tensor, ...]]
    inputs: Callable[..., tuple[Tensor, ...]]
    shared: frozenset[int] = frozenset()  # which inputs all rows share; dimension 0 of the others is the rows
    dtypes: tuple[Dtypes, ...] = tuple(DTYPES)  # of DTYPES, those that it takes
    inplace: bool = False  # whether `call` takes inplace=True
    summands: int = 1  # in the longest sum: its rounding shows in float64, where the formula is its own truth
    extremes: bool = True  # whether infinities and huge values must come out as the formula has them
    spreads_nan: bool = False  # whether the formula may carry a NaN to outputs of the same row that the kernel spares
    gradients_of_torch: bool = False  # whether they are its formula's, whose rounding depends on mates and threads
    products_on_card: bool = False  # whether that is so on a card
    costly: bool = False  # too many products for the benches of the CUDA kernels, which count each
    conditioning: float = 1.0  # how much more than one operation it magnifies a rounding, of either implementation

    def __str__(self) -> str:
        return self.name

    def of_rows(self, change: Callable[[Tensor], Tensor], tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The inputs (or their gradients), those that have rows changed."""
        return tuple(t if i in self.shared else change(t) for i, t in enumerate(tensors))

    def on_card(self) -> OpCase:
        """The case as the CUDA kernels have it."""
        return replace(self, gradients_of_torch=self.gradients_of_torch or self.products_on_card)

    def takes(self, *dtypes: torch.dtype) -> bool:
        return dtypes in self.dtypes


@dataclass(frozen=True)
class Barriers:
    """How the barriers of a CUDA kernel are shown to be needed: `files` whose barriers are deleted one at a time, their
    `count`, and the (case, rows) that together miss each of them. Of thousands of rows a block takes several panels."""

    files: tuple[str, ...]
    count: int
    cases: tuple[tuple[OpCase, int], ...]
