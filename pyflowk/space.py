"""What one event is and what comes with it: data sets, models, checkpoints and the command line pass this on.

`Space` describes events and their `Context`; `Ragged` holds rows of several lengths; `Events` are either or tensors,
`cat` puts some behind others, and `check_events` refuses those of another shape.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from .alphabet import check_alphabet, decode, encode, tokenizer_of
from .columns import Column
from .manifolds import Manifold, manifold

__all__ = ["Context", "Events", "Ragged", "Space", "cat", "check_events"]

KINDS = ("labels", "numbers", "tokens", "vectors")
TEXTS = ("tokens", "vectors")
"""The contexts that have lengths."""
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""What lengths may be: the kinds that torch counts with."""


@dataclass(frozen=True)
class Context:
    """What a condition is: a label, numbers, or a text: tokens, or what an encoder made of them.

    Labels are (B,) integers below ``size``, numbers (B, size) floats, tokens a :class:`Ragged` of integers below size,
    of up to ``length`` each, vectors a Ragged of floats, rows of which are (up to length, size). Raises ValueError for
    anything else.

    >>> from pyflowk.space import Context
    >>> str(Context("labels", 10)), str(Context("tokens", 100, length=77))
    ('labels (B,) below 10', 'up to 77 tokens below 100')
    """

    kind: Literal["labels", "numbers", "tokens", "vectors"]
    size: int
    length: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"context: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        object.__setattr__(self, "size", _count("the size of the context", self.size))
        if (self.length is None) != (self.kind not in TEXTS):
            of = "without a length" if self.length is None else f"of length {self.length}"
            raise ValueError(f"context: expected a length of tokens or vectors alone; got {self.kind} {of}")
        if self.length is not None:
            object.__setattr__(self, "length", _count("the length of the context", self.length))

    def __str__(self) -> str:
        if self.kind == "labels":
            return f"labels (B,) below {self.size}"
        if self.kind == "numbers":
            return f"numbers (B, {self.size})"
        return f"up to {self.length} {'tokens below' if self.kind == 'tokens' else 'vectors of'} {self.size}"


@dataclass(frozen=True)
class Space:
    r"""The space that events lie in: shape, kind of values, length, manifold, and the context that comes with each.

    Values are real numbers; or, with ``levels``, the ordered integers 0 to levels - 1 (pixels); or, with ``symbols``,
    the unordered ones 0 to symbols - 1 (tokens). Events are then (B, \*shape). With ``variable`` the first size of the
    shape is the longest length there is, and events travel as a :class:`Ragged`. ``manifold`` names the one that each
    event lies on, where that is not all of space, as :func:`pyflowk.manifolds.manifold` reads it. ``alphabet`` are the
    characters that symbols of text stand for (:mod:`pyflowk.alphabet`), or ``tokenizer`` is the text of the
    tokenizer.json whose tokens they are; ``columns`` say what those of the rows of a table stand for, each column
    having as many as it has values, and ``symbols`` being the most. The space is frozen, and `as_json` and `from_json`
    are inverse. Raises ValueError or TypeError for sizes that are no positive integers, for values of two kinds, for
    another number of characters than of symbols, and for an alphabet beside a tokenizer.

    >>> from pyflowk.space import Context, Space
    >>> digits = Space((1, 8, 8), levels=17, context=Context("labels", 10))
    >>> print(digits)
    1x8x8 of 17 levels given labels (B,) below 10
    >>> Space.from_json(digits.as_json()) == digits
    True
    >>> Space((12,), symbols=4, variable=True).kind
    'symbols'
    """

    shape: tuple[int, ...]
    levels: int | None = None
    symbols: int | None = None
    variable: bool = False
    manifold: str | None = None
    context: Context | None = None
    alphabet: str | None = None
    columns: tuple[Column, ...] | None = None
    tokenizer: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _shape(self.shape))
        if self.levels is not None and self.symbols is not None:
            raise ValueError(f"expected levels or symbols, not both, got {self.levels} and {self.symbols}")
        if self.levels is not None:
            object.__setattr__(self, "levels", _count("levels", self.levels, least=2))
        if self.symbols is not None:
            object.__setattr__(self, "symbols", _count("symbols", self.symbols))
        if not isinstance(self.variable, bool):
            raise TypeError(f"variable: expected True or False, got {self.variable!r}")
        if self.manifold is not None:
            manifold(self.manifold, self.shape)
            if self.kind != "real" or self.variable:
                raise ValueError(f"manifold: expected real numbers of one length on {self.manifold!r}, got {self}")
        if self.alphabet is not None:
            check_alphabet(self.alphabet, self.symbols)
        if self.tokenizer is not None:
            if not isinstance(self.tokenizer, str):
                raise TypeError(f"tokenizer: expected the text of a tokenizer.json, got {self.tokenizer!r}")
            if self.symbols is None or self.alphabet is not None:
                raise ValueError(f"tokenizer: expected symbols, and no alphabet beside it; got {self}")
        if self.columns is not None:
            self._check_columns()
        if self.context is not None and not isinstance(self.context, Context):
            raise TypeError(f"context: expected a Context or None, got {self.context!r}")

    @property
    def kind(self) -> Literal["real", "levels", "symbols"]:
        """What the values are."""
        return "levels" if self.levels is not None else "symbols" if self.symbols is not None else "real"

    @property
    def dims(self) -> int:
        """Elements of an event; of variable length, of the longest."""
        return math.prod(self.shape)

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """How many symbols each column has, where there are columns."""
        return None if self.columns is None else tuple(len(column.values) for column in self.columns)

    @property
    def is_image(self) -> bool:
        """Whether events are pictures (1, H, W) or (3, H, W) of integer levels."""
        return self.levels is not None and len(self.shape) == 3 and self.shape[0] in (1, 3)

    @property
    def is_vector(self) -> bool:
        """Whether events are vectors (D,) of real numbers, as the rows of a table are."""
        return self.kind == "real" and len(self.shape) == 1 and not self.variable

    @property
    def is_text(self) -> bool:
        """Whether it is known what text the symbols stand for: by an alphabet or a tokenizer."""
        return self.alphabet is not None or self.tokenizer is not None

    def encode(self, text: str) -> Tensor:
        """The symbols of a text, (L,) int64; ValueError where the space is none of text, or lacks characters of it."""
        if not self.is_text:
            raise ValueError(f"expected a model of text, which has an alphabet or a tokenizer, got one of {self}")
        if self.alphabet is not None:
            return encode(text, self.alphabet)
        return torch.tensor(tokenizer_of(self.tokenizer).encode(text, add_special_tokens=False).ids, dtype=torch.int64)

    def decode(self, symbols: Sequence[int]) -> str:
        """The text that symbols stand for; ValueError where the space is none of text."""
        if self.tokenizer is not None:
            text: str = tokenizer_of(self.tokenizer).decode(list(symbols), skip_special_tokens=False)
            return text
        if self.alphabet is None:
            raise ValueError(f"expected symbols of text, got those of {self}")
        return decode(symbols, self.alphabet)

    @property
    def geometry(self) -> Manifold | None:
        """The manifold that events lie on; None where that is all of space."""
        return None if self.manifold is None else manifold(self.manifold, self.shape)

    @property
    def classes(self) -> int | None:
        """How many labels the context has; None where it is no label."""
        return self.context.size if self.context is not None and self.context.kind == "labels" else None

    @property
    def context_dim(self) -> int | None:
        """How many numbers the context has; None where it has none."""
        return self.context.size if self.context is not None and self.context.kind == "numbers" else None

    def check(self, x: Events) -> None:
        """Raise TypeError or ValueError unless x are events of this space; values are not looked at."""
        if self.variable:
            if not isinstance(x, Ragged):
                raise TypeError(f"expected x to be a Ragged, as events of {self} have lengths, got {type(x).__name__}")
            most, *rest = self.shape
            if list(x.values.shape[2:]) != rest or x.values.shape[1] > most:
                sizes = ", ".join(map(str, ("B", f"up to {most}", *rest)))
                raise ValueError(f"expected x ({sizes}), got {tuple(x.values.shape)}")
            return
        check_events(x, self.shape)

    def as_json(self) -> dict[str, Any]:
        """JSON values, without those that are None or False."""
        values = {**asdict(self), "shape": list(self.shape)}
        if self.columns is not None:
            values["columns"] = [asdict(column) for column in self.columns]
        if self.context is not None:
            values["context"] = {key: value for key, value in values["context"].items() if value is not None}
        return {key: value for key, value in values.items() if value is not None and value is not False}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Space:
        """The inverse of `as_json`; raises ValueError or TypeError for anything else."""
        context = values.get("context") if isinstance(values, Mapping) else None
        for what, found in (("space", values), ("context", {} if context is None else context)):
            if not isinstance(found, Mapping):
                raise TypeError(f"{what}: expected names and values, got {found!r}")
        columns = values.get("columns")
        told: dict[str, Any] = {"context": None if context is None else Context(**context)}
        if columns is not None:
            told["columns"] = tuple(Column(column["name"], tuple(column["values"])) for column in columns)
        return cls(**{**values, **told})

    def _check_columns(self) -> None:
        columns = self.columns
        if not isinstance(columns, tuple) or not all(isinstance(column, Column) for column in columns):
            raise TypeError(f"columns: expected a tuple of Column, got {columns!r}")
        if self.shape != (len(columns),) or self.variable or self.symbols != max(map(len, (c.values for c in columns))):
            got = f"{len(columns)} of up to {max(self.sizes or (0,))} values"
            raise ValueError(
                f"columns: expected one for each place of {self.shape}, of {self.symbols} values; got {got}"
            )

    def __str__(self) -> str:
        if self.columns is not None:
            text = f"{self.shape[0]} columns of up to {self.symbols} symbols"
            return text if self.context is None else f"{text} given {self.context}"
        text = "x".join(map(str, self.shape))
        text = f"up to {text}" if self.variable else text
        text += f" of {self.levels} levels" if self.levels else f" of {self.symbols} symbols" if self.symbols else ""
        text += f" on the {self.manifold}" if self.manifold else ""
        return text if self.context is None else f"{text} given {self.context}"


@dataclass(frozen=True, eq=False)
class Ragged:
    r"""Rows of several lengths in one object: ``values`` (B, L, \*rest), row i of which ends at ``lengths[i]``.

    What lies beyond a row's length means nothing and is never to be read; ``mask`` says what does not. Indexing, len
    and ``to`` are those of rows. Raises ValueError or TypeError for lengths that are no (B,) integers, or are above L,
    and for values and lengths on two devices.

    >>> import torch
    >>> from pyflowk.space import Ragged
    >>> words = Ragged.of([torch.tensor([3, 1, 4]), torch.tensor([1])])
    >>> words.values.shape, words.lengths.tolist(), words.row(1).tolist()
    (torch.Size([2, 3]), [3, 1], [1])
    """

    values: Tensor
    lengths: Tensor

    def __post_init__(self) -> None:
        values, lengths = self.values, self.lengths
        for name, value in (("values", values), ("lengths", lengths)):
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{name}: expected a tensor, got {type(value).__name__}; Ragged.of takes a list of rows"
                )
        if lengths.dtype not in INTEGERS or lengths.dim() != 1:
            raise TypeError(f"lengths: expected integers (B,), got {tuple(lengths.shape)} {lengths.dtype}")
        if values.device != lengths.device:
            raise ValueError(f"expected values and lengths on one device, got {values.device} and {lengths.device}")
        if values.dim() < 2 or len(values) != len(lengths):
            raise ValueError(f"expected values (B, L, ...) and lengths (B,), got {tuple(values.shape)}, {len(lengths)}")
        if lengths.is_cpu and len(lengths) and not 0 <= int(lengths.min()) <= int(lengths.max()) <= values.shape[1]:
            raise ValueError(f"lengths: expected 0 to {values.shape[1]}, got {lengths.min()} to {lengths.max()}")

    @classmethod
    def of(cls, rows: Sequence[Tensor]) -> Ragged:
        """Tensors (L_i, *rest) in one; ValueError for none, or for different sizes beyond the first."""
        if not rows:
            raise ValueError("expected at least one row")
        if any(row.dim() == 0 or row.shape[1:] != rows[0].shape[1:] for row in rows):
            sizes = ", ".join(str(tuple(row.shape)) for row in rows[:5])
            raise ValueError(f"expected rows that differ in their first size alone, got {sizes}")
        lengths = torch.tensor([len(row) for row in rows])
        return cls(torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Tensor | slice) -> Ragged:
        if isinstance(rows, int):
            raise TypeError(f"expected a tensor of row numbers or a slice, got {rows}; row({rows}) is one of them")
        return Ragged(self.values[rows], self.lengths[rows])

    @property
    def mask(self) -> Tensor:
        """(B, L), True where a row has a value."""
        places = torch.arange(self.values.shape[1], device=self.lengths.device)
        return places < self.lengths[:, None]

    def row(self, index: int) -> Tensor:
        """One row (L_i, *rest), as long as it is."""
        return self.values[index, : int(self.lengths[index])]

    def to(self, device: torch.device | str) -> Ragged:
        """The same rows on a device."""
        return Ragged(self.values.to(device), self.lengths.to(device))

    def pin_memory(self) -> Ragged:
        """The same rows in page-locked memory, from which they are copied to a card while it computes."""
        return Ragged(self.values.pin_memory(), self.lengths.pin_memory())


@dataclass(frozen=True, eq=False)
class Paired:
    r"""Noise and data that belong together, row by row, in one object: ``x0`` (B, \*shape) with ``x1`` (B, \*shape).

    They are the pairs that a flow has made (reflow), or that the data bring (one picture and what it becomes).
    Indexing, len and ``to`` are those of rows. Raises ValueError or TypeError for tensors of two shapes or devices.

    >>> import torch
    >>> from pyflowk.space import Paired
    >>> pairs = Paired(torch.zeros(3, 2), torch.ones(3, 2))
    >>> len(pairs[1:]), pairs[1:].x1.sum()
    (2, tensor(4.))
    """

    x0: Tensor
    x1: Tensor

    def __post_init__(self) -> None:
        for name, value in (("x0", self.x0), ("x1", self.x1)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
        if self.x0.shape != self.x1.shape or self.x0.dim() == 0:
            raise ValueError(f"expected x0 and x1 of one shape (B, ...), got {self._sizes()}")
        if self.x0.device != self.x1.device:
            raise ValueError(f"expected x0 and x1 on one device, got {self.x0.device} and {self.x1.device}")

    def _sizes(self) -> str:
        return f"{tuple(self.x0.shape)} and {tuple(self.x1.shape)}"

    def __len__(self) -> int:
        return len(self.x1)

    def __getitem__(self, rows: Tensor | slice) -> Paired:
        if isinstance(rows, int):
            raise TypeError(f"expected a tensor of row numbers or a slice, got {rows}")
        return Paired(self.x0[rows], self.x1[rows])

    def to(self, device: torch.device | str) -> Paired:
        """The same pairs on a device."""
        return Paired(self.x0.to(device), self.x1.to(device))

    def pin_memory(self) -> Paired:
        """The same pairs in page-locked memory, from which they are copied to a card while it computes."""
        return Paired(self.x0.pin_memory(), self.x1.pin_memory())


Events = Tensor | Ragged
r"""Events of any space: (B, \*shape), or rows of several lengths."""


def cat(parts: Sequence[Any]) -> Any:
    """The rows of all parts, one after the other; all are tensors, :class:`Ragged` or :class:`Paired`.

    >>> import torch
    >>> from pyflowk.space import Ragged, cat
    >>> short, long = (Ragged.of([torch.arange(n)]) for n in (2, 5))
    >>> cat([short, long]).lengths.tolist()
    [2, 5]
    """
    if len({type(part) if isinstance(part, (Ragged, Paired)) else Tensor for part in parts}) > 1:
        raise TypeError("expected tensors, rows of several lengths or pairs alone, got a mixture of them")
    if pairs := [part for part in parts if isinstance(part, Paired)]:
        return Paired(torch.cat([part.x0 for part in pairs]), torch.cat([part.x1 for part in pairs]))
    ragged = [part for part in parts if isinstance(part, Ragged)]
    if not ragged:
        return torch.cat(list(parts))
    width = max(part.values.shape[1] for part in ragged)
    values = [torch.nn.functional.pad(p.values.movedim(1, -1), (0, width - p.values.shape[1])) for p in ragged]
    return Ragged(torch.cat(values).movedim(-1, 1), torch.cat([part.lengths for part in ragged]))


def check_events(x: Any, shape: tuple[int, ...], name: str = "x") -> None:
    """Raise unless x is a batch (B, \\*shape) of events: TypeError for no tensor, ValueError for another shape.

    >>> import torch
    >>> from pyflowk.space import check_events
    >>> check_events(torch.zeros(5, 2), (3,))
    Traceback (most recent call last):
    ValueError: expected x (B, 3), got (5, 2)
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"expected {name} to be a tensor, got {type(x).__name__}")
    if x.dim() == 0 or tuple(x.shape[1:]) != shape:
        raise ValueError(f"expected {name} ({', '.join(map(str, ('B', *shape)))}), got {tuple(x.shape)}")


def _count(what: str, value: Any, least: int = 1) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{what}: expected an integer of at least {least}, got {value!r}")
    return number


def _shape(shape: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(n) for n in shape)
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 1 or any(isinstance(n, bool) for n in shape):
        raise ValueError(f"expected an event shape of positive sizes, such as (2,) or (1, 8, 8); got {shape!r}")
    return sizes
