"""Ctrl-C and SIGTERM end a run after its step."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator

SAME_SIGNAL = 2.0
"""Seconds in which signals are taken for one."""


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into a flag that the loop looks at; a later one acts at once.

    Ctrl-C comes twice to a process under a launcher, from the terminal and passed on: what follows soon is the same.
    """
    flag, first = threading.Event(), math.inf

    def handle(number: int, frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        first = min(first, now)
        if now - first > SAME_SIGNAL:
            raise KeyboardInterrupt
        flag.set()

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield flag
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
