"""What is remembered of parameters: made once, and made again as soon as a single bit of them has changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

from ._backends import backends, forced
from .modes import capturing, transformed

__all__ = ["Keeper", "Kept"]

_PLAIN = (Tensor, Parameter)
Made = TypeVar("Made")


class Kept:
    """What one module made of some tensors, as long as these hold the same bits.

    Nothing is known by its address or its version counter: fused optimisers, writes through ``.data`` or numpy and
    memory that is used again change neither. The tensors are compared with a copy of them (C++, one call, at the speed
    of memcmp), which stops at the first difference. Where values cannot be looked at without waiting for a device, or
    not at all (compilers, functional transformations), where a gradient is wanted, and where a CUDA graph is captured,
    which would hold the memory of what is made again later, nothing is remembered. Copies and pickles begin without,
    but for those that are frozen, which never look again.
    """

    def __init__(self) -> None:
        self.frozen = False
        self._entries: dict[Hashable, tuple[Any, Any, Any]] = {}

    def get(self, tensors: Sequence[Tensor], make: Callable[[], Made], which: Hashable = None) -> Made:
        """Return ``make()`` of these tensors, or what it was before; ``which`` tells apart what the same ones make."""
        if capturing(tensors[0]):
            return make()
        entry = self._entries.get(which)
        if self.frozen:
            place = tensors[0].dtype, tensors[0].device
            if entry is not None and entry[0] == place:
                return entry[2]
            if transformed():
                return make()
            return self._note(which, place, None, tensors, make)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return make()
        if transformed() or not all(type(t) in _PLAIN and t.is_cpu and not t.is_neg() for t in tensors):
            return make()
        tensors = list(tensors)
        if entry is None or entry[0] != forced() or not entry[1].same(tensors):
            self._entries.pop(which, None)
            return self._note(which, forced(), backends["cpu"].kernels.Snapshot(tensors), tensors, make)
        return entry[2]

    def _note(
        self, which: Hashable, place: Any, snapshot: Any, tensors: Sequence[Tensor], make: Callable[[], Made]
    ) -> Made:
        with torch.inference_mode(False), torch.no_grad():  # so that a backward to the input may save it
            made: Any = _apart(make(), {_memory(tensor) for tensor in tensors})
        self._entries[which] = place, snapshot, made
        return made

    def freeze(self) -> None:
        """Take what is made first from now on for right for ever."""
        self.frozen, self._entries = True, {}

    def __getstate__(self) -> dict[str, Any]:
        return {"frozen": self.frozen, "_entries": self._entries if self.frozen else {}}


def _apart(made: Any, memory: set[int]) -> Any:
    """The same, but no part of it in that memory: other tensors may hold the same bits when that is written to."""
    if isinstance(made, tuple):
        return tuple(_apart(part, memory) for part in made)
    return made.clone() if isinstance(made, Tensor) and _memory(made) in memory else made


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Keeper:
    """A module that keeps what it makes of its own parameters."""

    def keep(self) -> None:
        """Make all that this module keeps now."""
        raise NotImplementedError(f"{type(self).__name__} keeps nothing")
