"""What options of a solve have in common: one call to print, and equality that tensors among them do not upset."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

__all__ = ["Options"]


class Options:
    """Frozen options, printed as the call that makes them, without what was left to it; equal where their values are.

    Tensors are equal where dtype, device, shape and all numbers are.

    >>> import torch
    >>> from pyflowk.solvers import Adaptive
    >>> Adaptive(rtol=torch.ones(2)) == Adaptive(rtol=torch.ones(2)), Adaptive() == Adaptive(rtol=torch.ones(2))
    (True, False)
    """

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _same([*vars(self).values()], [*vars(other).values()])

    def __hash__(self) -> int:
        return hash((type(self), *map(_told_apart, vars(self).values())))

    def __repr__(self) -> str:
        given = [(f.name, getattr(self, f.name), f.default) for f in fields(self)]  # type: ignore[arg-type]
        shown = [f"{name}={value!r}" for name, value, left in given if type(value) is not type(left) or value != left]
        return f"{type(self).__name__}({', '.join(shown)})"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b)


def _told_apart(value: Any) -> Hashable:
    """Alike for equal values: of a tensor its shape, as its numbers may change."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return tuple(map(_told_apart, value)) if isinstance(value, (tuple, list)) else value
