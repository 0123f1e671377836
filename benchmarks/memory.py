"""Peak memory of a call, by the account that torch's CPU allocator keeps of every allocation and release."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that were live at one moment of the call, beyond what was live before it.

    The call runs once beforehand, so that caches and lazily made buffers are not counted; what it returns is released
    before the end is reached. Allocations of C++ kernels and of autograd's threads count too; those of libraries with
    an allocator of their own (a convolution's scratch memory inside oneDNN) do not.

    >>> import torch
    >>> from benchmarks.memory import peak_bytes
    >>> peak_bytes(lambda: torch.ones(1000).exp().sum())
    8000
    """
    call()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    sizes = [event.extra_fields.alloc_size for event in _by_time(recorded.profiler.kineto_results)]
    live = most = 0
    for size in sizes:
        live += size
        most = max(most, live)
    return most


def _by_time(results: Any) -> list[Any]:
    found: list[Any] = []
    pending: list[Iterable[Any]] = [results.experimental_event_tree()]
    while pending:
        for event in pending.pop():
            if event.tag == _EventType.Allocation and event.extra_fields.device.type == "cpu":
                found.append(event)
            pending.append(event.children)
    return sorted(found, key=lambda event: event.start_time_ns)
