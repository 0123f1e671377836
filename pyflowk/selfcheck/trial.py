"""How an op is tried: what stands around the files of `trials/`, one an op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Large", "Trial", "each", "noise"]


@dataclass(frozen=True)
class Large:
    """One call of the size that models have, by which kernels are tried on more than the ways of small tensors: its
    configuration, `inputs(rows)` that makes its tensors as those of a trial, and the `rows` of the self-check."""

    config: tuple[Any, ...]
    inputs: Callable[[int], tuple[Any, ...]]
    rows: int = 257


@dataclass(frozen=True)
class Trial:
    """A trial says how one op is tried: `configs` are its arguments after the tensors, `inputs(config, rows)` makes its
    tensors and lists of tensors, the real ones in float64.

    The first config is the one whose speed is measured.
    """

    configs: list[tuple[Any, ...]]
    inputs: Callable[[tuple[Any, ...], int], tuple[Any, ...]]
    precisions: tuple[torch.dtype, ...] = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    #: of a config: how much rounding of the inputs grows on the way to outputs and gradients
    conditioning: Callable[[tuple[Any, ...]], float] = lambda config: 1.0
    #: places of the tensors that are float64 whatever the precision
    double: tuple[int, ...] = ()
    #: how many of the results, the first ones, have one right value; all if nothing is said
    compared: int | None = None
    #: beside them, in float32
    large: Large = field(kw_only=True)
    #: of other sizes, whose kernels are others, in every precision
    others: tuple[Large, ...] = field(default=(), kw_only=True)

    def tensors(self, config: tuple[Any, ...], rows: int, precision: torch.dtype) -> tuple[Any, ...]:
        """Make `inputs`, the real ones in that precision."""
        return self._narrowed(self.inputs(config, rows), precision)

    def large_tensors(
        self, rows: int, precision: torch.dtype = torch.float32, large: Large | None = None
    ) -> tuple[Any, ...]:
        """Make the inputs of `large`, or of one of the `others`, likewise."""
        return self._narrowed((large or self.large).inputs(rows), precision)

    def _narrowed(self, inputs: tuple[Any, ...], precision: torch.dtype) -> tuple[Any, ...]:
        narrow = each(lambda t: t.to(precision) if t.is_floating_point() else t, inputs)
        return tuple(inputs[i] if i in self.double else t for i, t in enumerate(narrow))


def each(change: Callable[[Tensor], Any], tensors: tuple[Any, ...]) -> tuple[Any, ...]:
    """Change the tensors, those in lists too."""
    return tuple([change(t) for t in entry] if isinstance(entry, list) else change(entry) for entry in tensors)


def noise(*shape: int) -> Tensor:
    """Make standard normal numbers of this shape, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)
