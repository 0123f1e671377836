"""How the commands print lines and tables, and how far a long work is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from rich.console import Console

SECONDS = 10.0
"""Between two lines of a long work."""


class Progress:
    """It says on standard error, every ten seconds, how far a work is; nothing where it takes less.

    >>> Progress("sampled")(0.5)
    """

    def __init__(self, what: str) -> None:
        self.what, self.started = what, time.monotonic()
        self.spoken = self.started

    def __call__(self, part: float) -> None:
        """The part, 0 to 1, that is done."""
        now = time.monotonic()
        if part < 1 and now - self.spoken >= SECONDS:
            left = (now - self.started) * (1 - part) / part
            print(f"{self.what} {100 * part:.0f} %, about {left:.0f} s left; Ctrl-C stops", file=sys.stderr, flush=True)
            self.spoken = now


def say(console: Console, line: str) -> None:
    """One line as it is; a long one is left to the terminal."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_pairs(console: Console, pairs: Iterable[tuple[str, str]]) -> None:
    """Two aligned columns, indented; long lines are left to the terminal."""
    rows = list(pairs)
    width = max((len(left) for left, _ in rows), default=0)
    for left, right in rows:
        say(console, f"  {left:<{width}}  {right}")
