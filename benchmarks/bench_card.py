"""Every op on a card: what serves it, its kernel, its formula in plain torch and compiled, by the card's own clock.

    python -m benchmarks --only card --out FOLDER [--minutes 1]

Calls are as wide as the self-check's large trials, forward and backward: of 1024 rows first, then of 16384 and of 256,
the ops that have a kernel before the others. A figure is the median round of as many calls in a row as fill a hundredth
of a second, the host's share included where that takes longest. Compilation comes last and as long as time is left.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pyflowk import selfcheck
from pyflowk.ops import registry
from pyflowk.ops._backends import backends
from pyflowk.ops._router import flat
from pyflowk.selfcheck.trial import each

from .report import machine, save

ON_REQUEST = True  # a card is no part of most machines
OPS: list[str] = []  # judges none, compares all
SIZES = (1024, 16384, 256)
LARGEST = 1e8  # numbers in the tensors of one call, eight times a card's cache: more rows than that are left out
ROUNDS = 5
SECONDS = 0.01  # of a round
SLOW = 1.0  # seconds of a call that is made once, and not with more rows
PATIENCE = 10.0  # with a formula; its compilation has six times as long

Row = dict[str, Any]


def run(minutes: float = 1.0, folder: Path | None = None, device: str = "cuda", sizes: tuple[int, ...] = SIZES) -> bool:
    """Measure, print, and write card.json as the figures come; False where a call of ours failed.

    What ten times `minutes` do not suffice for is left out; without a card there is nothing to do.
    """
    if device == "cuda" and not torch.cuda.is_available():
        print("card: torch sees none here")
        return True
    end = time.monotonic() + 600 * minutes
    facts = machine() | {"card": torch.cuda.get_device_name() if device == "cuda" else "none, a rehearsal"}
    rows: dict[tuple[str, int], Row] = {}
    for take in (_measured, _compiled):
        for op, args, count in _calls(device, sizes):
            if time.monotonic() > end:
                print(f"card: no time is left for {op.name}, {count} rows, and what comes after")
                break
            row = rows.setdefault((op.name, count), {"op": op.name, "rows": count, "seconds": {}, "failed": {}})
            fewer = [other for (name, n), other in rows.items() if name == op.name and n < count]
            take(row, fewer, op, args, device)
            print(_line(row), flush=True)
            if folder is not None:  # at once: whoever waits may not wait for the end
                save(folder, "card", {"machine": facts, "rows": [*rows.values()]})
    return not any("served" in row["failed"] or "kernel" in row["failed"] for row in rows.values())


def _calls(device: str, sizes: tuple[int, ...]) -> Iterator[tuple[Any, tuple[Any, ...], int]]:
    """(op or the op of its gradient, arguments on the card, rows)"""
    ops = sorted(registry().items(), key=lambda item: backends[device].kernel(item[0]) is None)
    for rows in sizes:
        for name, op in ops:
            trial = selfcheck.TRIALS[name]
            one, two = (sum(t.numel() for t in flat(trial.large_tensors(n))) for n in (1, 2))
            if one + (rows - 1) * (two - one) > LARGEST:
                continue
            args = (*each(lambda t: t.to(device), trial.large_tensors(rows)), *trial.large.config)
            yield op, args, rows
            if op.backward is not None:
                yield op.backward, op.backward_arguments(args), rows


def _measured(row: Row, fewer: list[Row], op: Any, args: tuple[Any, ...], device: str) -> None:
    _take(row, "served", lambda: op.run(args), device)
    kernel = backends[device].kernel(op.name)
    if kernel is not None:
        _take(row, "kernel", lambda: kernel(*args), device)
    if not any(_slow(other, "formula") for other in fewer):
        with _patience(PATIENCE):
            _take(row, "formula", lambda: op.reference(*args), device)


def _compiled(row: Row, fewer: list[Row], op: Any, args: tuple[Any, ...], device: str) -> None:
    if any(_slow(other, variant) for other in (row, *fewer) for variant in ("formula", "compiled")):
        return  # a long loop: its graph would be as long
    torch._dynamo.reset()
    call = partial(torch.compile(op.formula), *args)
    with _patience(6 * PATIENCE):
        _take(row, "compiled", call, device, before=call)


def _slow(row: Row, variant: str) -> bool:
    return variant in row["failed"] or row["seconds"].get(variant, 0) > SLOW


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Interrupt a loop of Python's that takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _take(row: Row, variant: str, call: Callable[[], object], device: str, before: Callable[[], object] = int) -> None:
    try:
        with torch.no_grad():
            before()
            row["seconds"][variant] = _seconds(call, device)
    except Exception as error:  # reported beside the figures
        row["failed"][variant] = f"{type(error).__name__}: {error}".splitlines()[0]


def _seconds(call: Callable[[], object], device: str) -> float:
    first = _round(call, 1, device)
    if first > SLOW:
        return first
    for _ in range(2):
        call()
    once = _round(call, 1, device)
    calls = max(1, min(1000, round(SECONDS / max(once, 1e-6))))
    return median(_round(call, calls, device) for _ in range(ROUNDS))


def _round(call: Callable[[], object], calls: int, device: str) -> float:
    """Seconds of one among so many calls in a row."""
    if device != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / calls


def _line(row: Row) -> str:
    figures = ", ".join(f"{name} {1e6 * value:.1f} us" for name, value in row["seconds"].items())
    failed = "".join(f"; {name}: {why}" for name, why in row["failed"].items())
    return f"{row['op']:32}{row['rows']:>6} rows: {figures}{failed}"
