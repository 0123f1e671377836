"""Numbers that are handed in: one sentence for all that do not fit."""

from __future__ import annotations

import math
from numbers import Integral, Real


def require_counts(owner: str, least: int = 1, **counts: object) -> None:
    """Raise unless each is an integer of at least ``least``: TypeError for another kind, ValueError for a smaller one.

    >>> require_counts("MLP", width=0)
    Traceback (most recent call last):
    ValueError: MLP expects width to be an integer of at least 1, got 0
    """
    for name, value in counts.items():
        text = f"{owner} expects {name} to be an integer of at least {least}, got {value!r}"
        if not isinstance(value, Integral):
            raise TypeError(text)
        if value < least:
            raise ValueError(text)


def require_numbers(owner: str, **numbers: object) -> None:
    """Raise unless each is a finite number of at least 0: TypeError for another kind, ValueError for another one."""
    for name, value in numbers.items():
        text = f"{owner} expects {name} to be a finite number of at least 0, got {value!r}"
        if not isinstance(value, Real):
            raise TypeError(text)
        if not 0 <= float(value) < math.inf:
            raise ValueError(text)
