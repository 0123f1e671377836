"""How the commands print tables."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console


def print_pairs(console: Console, pairs: Iterable[tuple[str, str]]) -> None:
    """Two aligned columns, indented; long lines are left to the terminal."""
    rows = list(pairs)
    width = max((len(left) for left, _ in rows), default=0)
    for left, right in rows:
        console.print(f"  {left:<{width}}  {right}", highlight=False, markup=False, soft_wrap=True)
