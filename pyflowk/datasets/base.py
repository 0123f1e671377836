"""The one container every loader returns, and the seeded split they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..space import TEXTS, Context, Events, Paired, Ragged, Space, check_events
from ..transforms import check_levels
from .files import digest
from .preparation import Preparation
from .rows import Mapped, OnDemand, Rows, Watch, chosen, picked

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Dataset:
    """Rows to train on, to validate and to test, events of one `space`, and what comes with each of them.

    Rows are tensors, float32, or integers where the space has symbols, or :class:`Ragged` where it has lengths; or they
    are read :class:`OnDemand`; or :class:`Paired`, whose two halves have the shape of the space and are real numbers,
    whatever it says of values. The context that the space names stands beside them, row by row; a part for which it is
    not known has None. Raises ValueError or TypeError, naming the part, for rows and contexts that do not lie in the
    space; what is read on demand is looked at when it is taken.

    `entropy` is the differential entropy in nats where it is known exactly: "NLL minus entropy" is an absolute score.
    `preparation` leads back to the units of a table, `fingerprint` is a digest of what was in a file, `notes` say
    what was taken for what in it, and `origin` holds the arguments of `load` that give the same again, as JSON values.

    >>> import torch
    >>> from pyflowk.datasets import Dataset
    >>> from pyflowk.space import Space
    >>> coins = Dataset("coins", Space((1, 2, 2), levels=2), *(torch.zeros(4, 1, 2, 2) for _ in range(3)))
    >>> coins
    Dataset(coins: 4 / 4 / 4 samples of 1x2x2 of 2 levels)
    >>> coins.take("valid", torch.tensor([0, 1]))[0].shape
    torch.Size([2, 1, 2, 2])
    """

    name: str
    space: Space
    train: Rows
    valid: Rows
    test: Rows
    train_context: Rows | None = None
    valid_context: Rows | None = None
    test_context: Rows | None = None
    _: KW_ONLY
    entropy: float | None = None
    preparation: Preparation | None = None
    fingerprint: str | None = None
    notes: tuple[str, ...] = ()
    origin: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for part in PARTS:
            rows: Any
            context: Any
            rows, context = self.part(part)
            try:
                if isinstance(rows, Paired):
                    check_events(rows.x1, self.space.shape, "the halves of pairs")
                else:
                    self.space.check(torch.empty(rows.shape, device="meta") if isinstance(rows, OnDemand) else rows)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{self.name}, {part}: {error}") from error
            if not isinstance(rows, (OnDemand, Paired)):
                _check_values(rows, self.space, f"{self.name}, {part}")
            if context is not None:
                _check_context(context, len(rows), self.space.context, self.name, part)

    def __repr__(self) -> str:
        """One line: no rows."""
        return f"Dataset({self.name}: {' / '.join(str(len(self.part(p)[0])) for p in PARTS)} samples of {self.space})"

    def part(self, name: str) -> tuple[Rows, Rows | None]:
        """The rows of a part, "train", "valid" or "test", and their contexts."""
        if name not in PARTS:
            raise ValueError(f"expected a part of the data, one of {', '.join(PARTS)}; got {name!r}")
        return getattr(self, name), getattr(self, f"{name}_context")

    def take(self, part: str, rows: Tensor | slice = slice(None)) -> tuple[Any, Any]:
        """Some rows of a part, "train", "valid" or "test", all by default, and their contexts, None without any.

        They are tensors or :class:`Ragged`, on the CPU.
        """
        events, context = self.part(part)
        found = events[rows]
        if isinstance(events, OnDemand):
            _check_values(found, self.space, f"{self.name}, {part}")
        return found, None if context is None else context[rows]

    @property
    def on_demand(self) -> bool:
        """Whether rows are read when they are taken."""
        return any(isinstance(self.part(part)[0], OnDemand) for part in PARTS)

    def given(self, columns: Sequence[int | str]) -> Dataset:
        """The other columns of a table (N, D), with these, by name or number, as their contexts (N, C).

        Raises ValueError for data that is no table, columns that it does not have, twice the same, or all of them.

        >>> import torch
        >>> from pyflowk.datasets import Dataset
        >>> from pyflowk.space import Space
        >>> table = Dataset("x", Space((3,)), *(torch.zeros(5, 3) for _ in range(3))).given([0, 2])
        >>> print(table.space)
        1 given numbers (B, 2)
        """
        if isinstance(columns, str):
            raise TypeError(f"{self.name}: expected a list of given columns, such as [{columns!r}], got {columns!r}")
        if not self.space.is_vector or self.space.context:
            raise ValueError(f"{self.name}: only a table without labels can be split into samples and contexts")
        try:
            preparation = (self.preparation or Preparation.identity(self.space.dims)).conditioned(columns)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        rows = (self.train, self.valid, self.test)
        x, contexts = ([chosen(part, of) for part in rows] for of in (preparation.modelled, preparation.given))
        return replace(
            Dataset(self.name, table_space(preparation), *x, *contexts),
            preparation=preparation, fingerprint=self.fingerprint, notes=self.notes, origin=self.origin,
        )  # fmt: skip


def table_space(preparation: Preparation) -> Space:
    """Rows of numbers with the numbers that are given, as a preparation tells them apart."""
    given = len(preparation.given)
    return Space((len(preparation.modelled),), context=Context("numbers", given) if given else None)


def label_context(labels: Tensor | None) -> Context | None:
    """The context of labels (N,) of which the largest occurs; None without labels."""
    return None if labels is None else Context("labels", int(labels.max()) + 1)


def _check_values(x: Events, space: Space, what: str) -> None:
    values = x.values[x.mask] if isinstance(x, Ragged) else x
    if (geometry := space.geometry) is not None:
        geometry.check(values, what)
    if space.levels is not None:
        check_levels(values, space.levels, what)
    elif space.symbols is not None:
        if values.is_floating_point() or values.dtype == torch.bool:
            raise TypeError(f"{what}: expected integers, {space.symbols} symbols, got {values.dtype}")
        check_levels(values, space.symbols, what, "symbols")


def _check_context(context: Any, count: int, kind: Context | None, name: str, part: str) -> None:
    if kind is None:
        raise ValueError(f"{name}: expected no context of {part}, as the space has none")
    what = f"{name}, labels of {part}" if kind.kind == "labels" else f"{name}, context of {part}"
    _require_held(context, what, kind)
    if len(context) != count:
        raise ValueError(f"{what}: expected {count}, one for each row, got {len(context)}")
    if kind.kind in TEXTS:
        length = kind.length or 1
        tokens = Space((length, kind.size) if kind.kind == "vectors" else (length,), variable=True)
        tokens = replace(tokens, symbols=kind.size) if kind.kind == "tokens" else tokens
        try:
            tokens.check(context)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{what}: {error}") from error
        return _check_values(context, tokens, what)
    shape = "a Ragged" if isinstance(context, Ragged) else tuple(context.shape)
    if shape != ((count,) if kind.kind == "labels" else (count, kind.size)):
        raise ValueError(f"{what}: expected {kind}, got {shape}")
    if context.dtype == torch.bool or context.dtype.is_floating_point != (kind.kind == "numbers"):
        raise TypeError(f"{what}: expected {'integers' if kind.kind == 'labels' else 'floats'}, got {context.dtype}")
    if kind.kind == "labels":
        check_levels(context, kind.size, what, "classes")


def _require_held(context: object, what: str, kind: Context) -> None:
    if not isinstance(context, (Tensor, Ragged, OnDemand)):
        raise TypeError(f"{what}: expected {kind} in a tensor or Ragged, got {type(context).__name__}")


def split(
    name: str,
    space: Space,
    x: Rows,
    context: Events | None = None,
    *,
    seed: int,
    held_out: float = 0.1,
    groups: Tensor | None = None,
    watch: Watch | None = None,
) -> Dataset:
    r"""Shuffle once with `seed` and hold out two equal parts: 80 % train, 10 % validation, 10 % test by default.

    x (N, \*shape), in memory or on demand, or :class:`Ragged`, with N contexts or None. Samples of one group, (N,)
    int64, stay together; the parts are then as near to these sizes as groups end. Raises ValueError when a part would
    be empty, TypeError for other rows.
    """
    if not isinstance(x, (Tensor, Ragged, OnDemand)):
        raise TypeError(f"{name}: expected rows as a tensor, a Ragged or OnDemand, got {type(x).__name__}")
    count = len(x)
    part = round(held_out * count)
    if part < 1 or count - 2 * part < 1:
        raise ValueError(f"{name}: expected at least 10 samples to split into train, validation and test, got {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    cuts = [count - 2 * part, count - part]
    if groups is not None:
        order, cuts = _together(name, order, groups, cuts)
    parts = order.tensor_split(cuts)
    if space.symbols is None:
        x = _float(x)
    events = [picked(x, rows) for rows in parts]
    contexts = [] if context is None else [context[rows] for rows in parts]
    return Dataset(name, space, *events, *contexts, fingerprint=digest(*events, *contexts, watch=watch))


def _float(x: Rows) -> Rows:
    if isinstance(x, OnDemand):
        return Mapped(x, Tensor.float, x.shape[1:], torch.float32)
    return x.float() if isinstance(x, Tensor) else x


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
