"""KEY=VALUE options of systems and of their samples, and numbers in their range: typed, read, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import zoo
from ..training import Checkpoint
from ..zoo import GenerativeModel
from ..zoo.latent import Latent
from ..zoo.option import parse_options

__all__ = ["GIVEN_BY_DATA", "check_number", "check_options", "parse_options", "sampling_of", "split_inside"]

GIVEN_BY_DATA = {
    "space": "the data tells its space",
    "levels": "the data tells its levels",
    "classes": "--conditional takes the classes of the data",
    "context_dim": "--given takes columns of the data",
}
"""Options that a user gives in another way."""


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


def split_inside(pairs: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What --sampling says of samples of latent, and, by their keys, the words that go to the system inside it."""
    drawn, own = parse_options(pairs, "--sampling"), zoo.sampling("latent")
    words = {key: word for word in pairs if (key := word.partition("=")[0]) not in own}
    return {key: value for key, value in drawn.items() if key in own}, words


def sampling_of(model: GenerativeModel, pairs: Sequence[str], saved: Checkpoint) -> dict[str, Any]:
    """What --sampling says, on top of what the run has; ValueError for what the system does not declare."""
    if isinstance(model, Latent):
        given, words = split_inside(pairs)
        options = {**saved.sampling, **given}
        if words:
            before = {word.partition("=")[0]: word for word in (options.get("inside") or "").split()}
            options["inside"] = " ".join({**before, **words}.values())
    else:
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
