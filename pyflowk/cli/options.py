"""KEY=VALUE options of systems and of their samples, and numbers in their range: typed, read, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .. import zoo
from ..training import Checkpoint
from ..zoo import GenerativeModel

GIVEN_BY_DATA = {
    "space": "the data tells its space",
    "levels": "the data tells its levels",
    "classes": "--conditional takes the classes of the data",
    "context_dim": "--given takes columns of the data",
}
"""Options that a user gives in another way."""


def parse_options(pairs: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """`("width=256", "steps=None")` -> {"width": 256, "steps": None}; values are JSON, True, False, None or words.

    >>> parse_options(("width=256", "architecture=vector", "residual=True", "dropout=.1"))
    {'width': 256, 'architecture': 'vector', 'residual': True, 'dropout': 0.1}
    """
    words = {"None": None, "True": True, "False": False}
    number = re.compile(r"[+-]?(\d+\.|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)  # .5 or 1., which are no JSON
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise ValueError(f"{option}: expected KEY=VALUE, got {pair!r}")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = float(text) if number.fullmatch(text) else words.get(text, text)
    return options


def check_options(name: str, options: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """Raise ValueError, in one line, for a system or an option that there is not, and a value that does not fit."""
    zoo.options(name)
    for key in options.keys() & GIVEN_BY_DATA.keys():
        raise ValueError(f"--set {key}: {GIVEN_BY_DATA[key]}")
    for option, given in (("--set", (dict(options), {})), ("--sampling", ({}, dict(sampling)))):
        try:
            zoo.check(name, *given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{option}: {error}") from error


def sampling_of(model: GenerativeModel, pairs: Sequence[str], saved: Checkpoint) -> dict[str, Any]:
    """What --sampling says, on top of what the run has; ValueError for what the system does not declare."""
    options = {**saved.sampling, **parse_options(pairs, "--sampling")}
    try:
        model.chosen(options)
    except (TypeError, ValueError) as error:
        own = " ".join(f"{key}={value}" for key, value in saved.sampling.items())
        where = f"--sampling, beside the run's own {own}" if own else "--sampling"
        raise ValueError(f"{where}: {error}") from error
    return options


def check_number(option: str, value: int, least: int, most: int) -> None:
    """Raise ValueError, naming the option, for a number out of its range."""
    if not least <= value <= most:
        raise ValueError(f"{option}: expected an integer from {least} to {most}, got {value}")
