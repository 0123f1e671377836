"""Times of rivals that do the same work, taken in turns so that whatever else the machine does hits all alike.

Every batch of calls is timed in CPU time of this process (one thread, garbage collection off): another job on the core
costs nothing then, page faults still do. A round's figure is that of its fastest batch; the result is the median round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

clock = time.process_time


@dataclass(frozen=True)
class Effort:
    """How long to look: `batches` of at least `seconds` for each variant in each of `rounds`, after `warmups` calls."""

    rounds: int = 9
    batches: int = 5
    seconds: float = 2e-3
    warmups: int = 3


QUICK = Effort(rounds=2, batches=1, seconds=1e-5)


@dataclass(frozen=True)
class Times:
    """What became of the variants: seconds a call of every round, or why a variant failed."""

    rounds: dict[str, list[float]]
    failed: dict[str, str]

    @property
    def seconds(self) -> dict[str, float]:
        """Median over the rounds, by variant."""
        return {name: median(values) for name, values in self.rounds.items()}


def interleaved(variants: Mapping[str, Callable[[], object]], effort: Effort) -> Times:
    """Time every variant in the order A B C, B C A, C A B, ...; a variant that raises is reported, not measured."""
    calls: dict[str, int] = {}
    failed: dict[str, str] = {}
    with no_collection():
        for name, call in variants.items():
            try:
                calls[name] = _calls_per_batch(call, effort)
            except Exception as error:  # reported beside the figures; the driver then exits with status 1
                failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        names = list(calls)
        rounds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(effort.rounds):
            shift = turn % max(1, len(names))
            for name in names[shift:] + names[:shift]:
                batches = [_seconds(variants[name], calls[name]) for _ in range(effort.batches)]
                rounds[name].append(min(batches))
            gc.collect()
    return Times(rounds, failed)


@contextmanager
def no_collection() -> Iterator[None]:
    """Garbage collection off."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _calls_per_batch(call: Callable[[], object], effort: Effort) -> int:
    for _ in range(effort.warmups):  # compiles, fills caches and the allocator
        call()
    calls, seconds = 1, effort.seconds
    while (spent := _seconds(call, calls) * calls) < seconds:
        calls = min(10 * calls, int(1.2 * calls * seconds / max(spent, 1e-9)) + 1)
    return calls


def _seconds(call: Callable[[], object], calls: int) -> float:
    """Mean CPU time of a call among `calls` in a row."""
    start = clock()
    for _ in range(calls):
        call()
    return (clock() - start) / calls
