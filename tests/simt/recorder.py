"""Two pretended cards, a stream each: what a call asks of the CUDA runtime and of torch, and what of that is wrong."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from simt.bench import Bench
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: what waits for a card, or copies to it from memory that is not pinned
READS = {
    *("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__", "is_nonzero"),
    *("nonzero", "argwhere", "masked_select", "unique", "bincount", "repeat_interleave", "equal", "allclose"),
    *("tensor", "as_tensor"),
}


class _EventRow(ctypes.Structure):
    _fields_ = (
        ("call", ctypes.c_char_p),
        ("card", ctypes.c_int),
        ("on_its_stream", ctypes.c_int),
    )


@dataclass(frozen=True)
class Event:
    """A call of the runtime, the card that was current, and whether its stream was torch's current one there."""

    call: str
    card: int
    on_its_stream: bool


class Machine:
    """The pretended machine, from when tensors are on `card` and the thread has made `current` current.

    Only `card` has a context, and the other one if `both`.
    """

    def __init__(self, bench: Bench, card: int, current: int, both: bool, capturing: bool) -> None:
        self.library, self.card, self.before, self.both = bench.library, card, current, both
        self.library.simt_start(card, current, capturing, both)
        self._noted: int | None = None

    def events(self) -> list[Event]:
        """What was asked of the runtime since then."""
        events, row = [], _EventRow()
        for i in range(self.library.simt_event_count()):
            self.library.simt_event(ctypes.c_size_t(i), ctypes.byref(row))
            events.append(Event(row.call.decode(), row.card, bool(row.on_its_stream)))
        return events

    def faults(self) -> list[str]:
        """What no op may do."""
        events, other = self.events(), 1 - self.card
        work = [event for event in events if event.call in ("launch", "memset")]
        found = {f"{e.call} on card {e.card} for tensors on card {self.card}" for e in work if e.card != self.card}
        found |= {f"{e.call} on another stream than torch's" for e in work if not e.on_its_stream}
        found |= {"the host waits for a card" for event in events if event.call == "synchronize"}
        if self.library.simt_awake(other) and not self.both:
            found.add(f"card {other}, which nobody uses, has a context")
        if self.current() != self.before:
            found.add(f"card {self.current()} is current, and {self.before} was")
        return sorted(found)

    # ---- the current device as torch keeps it: where it has no context, it only notes what is to be current ----------
    # ---- (c10/cuda/CUDAFunctions.cpp)

    def current(self) -> int:
        return self.library.simt_current() if self._noted is None else self._noted

    def exchange(self, card: int) -> int:
        before, self._noted = self.current(), None
        self.library.simt_make_current(card)
        return before

    def maybe_exchange(self, card: int) -> None:
        if self.library.simt_awake(card):
            self.exchange(card)
        else:
            self._noted = card

    def device(self, card: int) -> Any:
        """In place of torch.cuda.device."""

        @contextmanager
        def current() -> Iterator[None]:
            before = self.exchange(card)
            try:
                yield
            finally:
                self.maybe_exchange(before)

        return current()


@contextmanager
def pretended(
    bench: Bench, card: int = 0, current: int = 0, *, both: bool = False, capturing: bool = False
) -> Iterator[Machine]:
    """The tensors of every call are on that card, and a graph is captured there if `capturing`."""
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(bench, card, current, both, capturing)
        patch.setattr(torch.cuda, "device", machine.device)
        try:
            yield machine
        finally:
            bench.library.simt_stop()


class _NoReads(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in READS:
            raise RuntimeError(f"{func.__name__} while a graph is captured")
        return func(*args, **(kwargs or {}))


@contextmanager
def seen_on_a_card(*, capturing: bool = False) -> Iterator[None]:
    """Python takes every tensor for one on a card; while a graph is captured, nothing may be read back or copied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "is_cuda", True, raising=False)
        patch.setattr(Tensor, "is_cpu", False, raising=False)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
        if not capturing:
            yield
            return
        with _NoReads():
            yield
