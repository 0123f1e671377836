"""The right-hand side as the solvers call it: its answers are checked, and never lost in memory that it uses again."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from ...ops.divergence import as_slope
from ...ops.modes import compiling, transformed

__all__ = ["Checked", "Reused"]

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Reused(RuntimeError):
    """A field has handed out memory again whose contents, an earlier slope, are still in use."""

    def __init__(self) -> None:
        super().__init__(
            "field: expected slopes in memory of their own; got one in that of an earlier one still in use"
        )


class Checked:
    """f(t, y) with its answer checked; t is 0-d where all rows share it, else (B, 1, ..., 1).

    A field may write every answer into the same memory. So that none is lost, an answer that lies where an earlier one
    lies that somebody still holds raises `Reused`: whoever solves starts anew with `copies`, which has all answers
    copied, as always where addresses tell nothing. `watches=False` is for those who use an answer before they ask
    again. ValueError for a field that changes t or y in place.
    """

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor], *, copies: bool = False, watches: bool = True) -> None:
        self.f, self.watches = f, watches
        self.copies = copies or (watches and transformed())
        self.asked = self.counted = False
        self.alive = False  # whether it differentiates by its state, which must have a graph for that
        self.used: dict[int, weakref.ref[Tensor]] = {}  # answers by address; those that are gone leave at times
        self.limit = 256

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        if compiling():
            return as_slope(self.f(t, y.clone()), y).clone()  # a compiler drops what is not needed
        before = None if self.asked else self._first(y)
        written = y._version + t._version if self.counted else 0
        k = self.f(t, y) if not self.alive or torch.is_grad_enabled() else self._differentiating(t, y)
        if type(k) is not Tensor or k.shape != y.shape or k.dtype != y.dtype:
            k = as_slope(k, y)
        if self.counted and written != y._version + t._version:
            raise _changed()
        if before is not None and not _same_bits(before, y.detach()):  # numpy tells nobody of its writes
            raise _changed()
        if self.copies or type(k) is not Tensor:
            return k.clone()
        if not self.watches:
            return k
        place = k.data_ptr()
        earlier = self.used.get(place)
        if earlier is not None and earlier() is not None:
            if place == y.data_ptr():  # the state itself, which nobody writes to
                return k
            raise Reused
        if place:
            self.used[place] = weakref.ref(k)
            if len(self.used) > self.limit:
                self.used = {place: known for place, known in self.used.items() if known() is not None}
                self.limit = 2 * len(self.used) + 256
        return k

    def _first(self, y: Tensor) -> Tensor | None:
        """Before the first question: whether writes are counted here, and the state to compare, where that is cheap."""
        self.asked, self.counted = True, not (y.is_inference() or torch.is_inference_mode_enabled())
        return y.detach().resolve_neg().clone() if y.is_cpu and not transformed() else None

    def _differentiating(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            return self.f(t, y.detach().requires_grad_()).detach()


def _changed() -> ValueError:
    return ValueError("field: expected it to leave time and state as they are; got one of them changed in place")


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, NaN being equal to itself."""
    bits = _BITS[a.element_size()]
    return torch.equal(a.view(bits), b.resolve_neg().view(bits))
