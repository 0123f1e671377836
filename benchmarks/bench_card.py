"""Every op on a card: what serves it, its kernel, its formula in plain torch and compiled, by the card's own clock.

    python -m benchmarks --only card --out FOLDER

Calls are as wide as the self-check's large trials, of 256, 1024 and 16384 rows, forward and backward. A figure is the
median round of as many calls in a row as fill a hundredth of a second, the host's share included where that takes
longest. Compilation comes last and as long as time is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
SIZES = (256, 1024, 16384)
LARGEST = 3e8  # numbers in the tensors of one call: more rows than that are left out
ROUNDS = 7
SECONDS = 0.01  # of a round


def run(minutes: float = 1.0, folder: Path | None = None, device: str = "cuda", sizes: tuple[int, ...] = SIZES) -> bool:
    """Measure, print, and write card.json; False where a call of ours failed.

    What is compiled is compiled within four times `minutes` from the start; without a card there is nothing to do.
    """
    if device == "cuda" and not torch.cuda.is_available():
        print("card: torch sees none here")
        return True
    end = time.monotonic() + 240 * minutes
    facts = machine() | {"card": torch.cuda.get_device_name() if device == "cuda" else "none, a rehearsal"}
    rows: list[dict[str, Any]] = []
    for take in (_measured, _compiled):
        for number, (op, args, count) in enumerate(_calls(device, sizes)):
            if take is _measured:
                rows.append({"op": op.name, "rows": count, "seconds": {}, "failed": {}})
            elif time.monotonic() > end:
                break
            take(rows[number], op, args, device)
            print(_line(rows[number]), flush=True)
            if folder is not None:  # at once: whoever waits may not wait for the end
                save(folder, "card", {"machine": facts, "rows": rows})
    return not any("served" in row["failed"] or "kernel" in row["failed"] for row in rows)


def _calls(device: str, sizes: tuple[int, ...]) -> Iterator[tuple[Any, tuple[Any, ...], int]]:
    """(op or the op of its gradient, arguments on the card, rows)"""
    for rows in sizes:
        for name, op in registry().items():
            trial = selfcheck.TRIALS[name]
            one = sum(t.numel() for t in flat(trial.large_tensors(1)))
            if rows * one > LARGEST:
                continue
            args = (*each(lambda t: t.to(device), trial.large_tensors(rows)), *trial.large.config)
            yield op, args, rows
            if op.backward is not None:
                yield op.backward, op.backward_arguments(args), rows


def _measured(row: dict[str, Any], op: Any, args: tuple[Any, ...], device: str) -> None:
    _take(row, "served", lambda: op.run(args), device)
    kernel = backends[device].kernel(op.name)
    if kernel is not None:
        _take(row, "kernel", lambda: kernel(*args), device)
    _take(row, "formula", lambda: op.reference(*args), device)


def _compiled(row: dict[str, Any], op: Any, args: tuple[Any, ...], device: str) -> None:
    torch._dynamo.reset()
    _take(row, "compiled", partial(torch.compile(op.formula), *args), device)


def _take(row: dict[str, Any], variant: str, call: Callable[[], object], device: str) -> None:
    try:
        with torch.no_grad():
            row["seconds"][variant] = _seconds(call, device)
    except Exception as error:  # reported beside the figures
        row["failed"][variant] = f"{type(error).__name__}: {error}".splitlines()[0]


def _seconds(call: Callable[[], object], device: str) -> float:
    first = _round(call, 1, device)
    if first > 1:  # a formula that is a long loop: ten more would take the time of all others
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


def _line(row: dict[str, Any]) -> str:
    figures = ", ".join(f"{name} {1e6 * value:.1f} us" for name, value in row["seconds"].items())
    failed = "".join(f"; {name}: {why}" for name, why in row["failed"].items())
    return f"{row['op']:32}{row['rows']:>6} rows: {figures}{failed}"
