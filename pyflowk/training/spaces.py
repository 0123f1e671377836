"""What the space of the data means to a run: whether a model fits, how large events are, what samples are drawn for."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ..datasets import Dataset
from ..space import Context, Events, Ragged, Space


def check_fit(space: Space, data: Dataset) -> None:
    """Raise ValueError unless a model of this space can be trained on the data.

    A model without context takes data that have one, a model of real numbers integer levels as numbers.
    """
    own = data.space
    plain = replace(own, levels=None, context=None) if space.levels is None else replace(own, context=None)
    if replace(space, context=None) != plain:
        events, got = (replace(one, context=None) for one in (space, own))
        raise ValueError(f"expected events of {events}, as the model's are; those of {data.name} are of {got}")
    if space.context is not None and not _serves(own.context, space.context):
        there = "nothing" if own.context is None else str(own.context)
        raise ValueError(f"expected {space.context} beside the data, as the model is given; {data.name} has {there}")


def _serves(given: Context | None, wanted: Context) -> bool:
    """Whether contexts of one kind can be given to a model of the other: labels may be fewer than it knows."""
    if given is None or given.kind != "labels" or wanted.kind != "labels":
        return given == wanted
    return given.size <= wanted.size


def elements(x: Events, space: Space) -> int:
    """How many numbers or symbols these events have together; those of variable length as many as they are long.

    Rows of a table's symbols count as one: their bits are those of a row.

    >>> import torch
    >>> from pyflowk.space import Ragged, Space
    >>> elements(Ragged.of([torch.tensor([3, 1]), torch.tensor([2])]), Space((4,), symbols=5, variable=True))
    3
    """
    if isinstance(x, Ragged):
        return int(x.lengths.sum()) * math.prod(space.shape[1:])
    return len(x) if space.columns else len(x) * space.dims


def contexts(space: Space, data: Dataset | None, n: int) -> Events | None:
    """What a model of this space draws n samples for: all labels in turn, or what the test rows are given, in turn."""
    if space.context is None:
        return None
    if space.classes is not None:
        return torch.arange(n) % space.classes
    if data is None or data.test_context is None:
        raise ValueError(f"expected data with {space.context}, for which to draw samples")
    found: Events = data.take("test", torch.arange(n) % len(data.test))[1]
    return found
