"""The one container every loader returns, and the seeded split they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..transforms import check_levels
from .files import digest
from .preparation import Preparation


@dataclass(frozen=True)
class Dataset:
    """Train, validation and test tensors of one data set, each (N, *shape) float32.

    `levels` is an integer L when the entries are integers 0..L-1 (images; others raise ValueError), None for continuous
    data.
    `classes` is the number of labels, None without labels; labels are (N,) int64, or (N, C) float32 where each sample
    has a context of C numbers (:meth:`given`).
    `entropy` is the differential entropy in nats where it is known exactly: "NLL minus entropy" is an absolute score.
    `preparation` leads back to the units of a table, `fingerprint` is a digest of what was in a file, `notes` say
    what was taken for what in it, and `origin` holds the arguments of `load` that give the same again, as JSON values.

    >>> import torch
    >>> from pyflowk.datasets import Dataset
    >>> data = Dataset("coins", *(torch.zeros(4, 1, 2, 2) for _ in range(3)), levels=2)
    >>> data.shape, data.dim, data.is_image
    ((1, 2, 2), 4, True)
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    train_labels: Tensor | None = None
    valid_labels: Tensor | None = None
    test_labels: Tensor | None = None
    _: KW_ONLY
    levels: int | None = None
    classes: int | None = None
    entropy: float | None = None
    preparation: Preparation | None = None
    fingerprint: str | None = None
    notes: tuple[str, ...] = ()
    origin: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.levels is not None:
            for part in ("train", "valid", "test"):
                check_levels(getattr(self, part), self.levels, f"{self.name}, {part}")
        for part in ("train", "valid", "test") if self.classes is not None else ():
            if (labels := getattr(self, f"{part}_labels")) is not None:
                check_levels(labels, self.classes, f"{self.name}, labels of {part}", "classes")  # type: ignore[arg-type]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.train.shape[1:])

    @property
    def dim(self) -> int:
        """Numbers in one sample."""
        return math.prod(self.shape)

    @property
    def context_dim(self) -> int | None:
        """Numbers in the context of a sample; None without contexts."""
        labels = self.train_labels
        return labels.shape[1] if labels is not None and labels.ndim == 2 else None

    def given(self, columns: Sequence[int | str]) -> Dataset:
        """The other columns of a table (N, D), with these, by name or number, as their contexts (N, C).

        Raises ValueError for data that is no table, columns that it does not have, twice the same, or all of them.

        >>> import torch
        >>> from pyflowk.datasets import Dataset
        >>> table = Dataset("x", *(torch.zeros(5, 3) for _ in range(3))).given([0, 2])
        >>> table.shape, table.context_dim
        ((1,), 2)
        """
        if len(self.shape) != 1 or self.levels is not None or self.train_labels is not None:
            raise ValueError(f"{self.name}: only a table without labels can be split into samples and contexts")
        try:
            preparation = (self.preparation or Preparation.identity(self.dim)).conditioned(columns)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        x = (part[:, list(preparation.modelled)] for part in (self.train, self.valid, self.test))
        contexts = (part[:, list(preparation.given)] for part in (self.train, self.valid, self.test))
        return replace(
            Dataset(self.name, *x, *contexts),
            preparation=preparation, fingerprint=self.fingerprint, notes=self.notes, origin=self.origin,
        )  # fmt: skip

    @property
    def is_image(self) -> bool:
        """True for samples (1, H, W) or (3, H, W) with integer levels."""
        return self.levels is not None and len(self.shape) == 3 and self.shape[0] in (1, 3)


def split(
    name: str,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    seed: int,
    held_out: float = 0.1,
    levels: int | None = None,
    groups: Tensor | None = None,
) -> Dataset:
    """Shuffle once with `seed` and hold out two equal parts: 80 % train, 10 % validation, 10 % test by default.

    x (N, *shape), labels (N,) int64 or None. Samples of one group, (N,) int64, stay together; the parts are then as
    near to these sizes as groups end. Raises ValueError when a part would be empty.
    """
    count = len(x)
    part = round(held_out * count)
    if part < 1 or count - 2 * part < 1:
        raise ValueError(f"{name}: expected at least 10 samples to split into train, validation and test, got {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    cuts = [count - 2 * part, count - part]
    if groups is not None:
        order, cuts = _together(name, order, groups, cuts)
    parts = order.tensor_split(cuts)
    x = x.float()
    train, valid, test = (x[rows] for rows in parts)
    if labels is None:
        return Dataset(name, train, valid, test, levels=levels, fingerprint=digest(train, valid, test))
    marks = [labels[rows] for rows in parts]
    classes = int(labels.max()) + 1
    content = digest(train, valid, test, *marks)
    return Dataset(name, train, valid, test, *marks, levels=levels, classes=classes, fingerprint=content)


def _together(name: str, order: Tensor, groups: Tensor, cuts: list[int]) -> tuple[Tensor, list[int]]:
    """The order with each group at its first member, and the two cuts where the nearest groups end."""
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    first = torch.full_like(order, len(order)).scatter_reduce(0, groups, place, "amin")
    order = order[first[groups[order]].argsort(stable=True)]
    ends = (groups[order].diff() != 0).nonzero().flatten() + 1
    if len(ends) < 2:
        raise ValueError(f"{name}: expected at least 3 different samples to split, got {len(ends) + 1}")
    last = 1 + int((ends[1:] - cuts[1]).abs().argmin())
    return order, [int(ends[(ends[:last] - cuts[0]).abs().argmin()]), int(ends[last])]
