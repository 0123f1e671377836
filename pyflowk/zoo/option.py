"""What each option of a system means and which values it takes: declared in the builder's signature, read everywhere.

The checks of `create`, the table of `pyflowk zoo MODEL` and its errors come from the same line.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Annotated, Any

from ..nets import ACTIVATIONS, TIMES
from ..solvers import METHODS

LAYERS, WIDTH = 1000, 1 << 16
"""More layers, or units of one, are taken for a slip: they would fill the memory before the first error."""


@dataclass(frozen=True)
class Option:
    """A sentence about an option, and its values: numbers from ``least`` to ``most``, or one of ``choices``.

    ``above`` and ``below`` are limits that are not reached. Type, default and whether None is taken come from the
    signature that the option stands in: ``width: Annotated[int | None, Option("units of a layer", 1, 512)] = None``.
    """

    meaning: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    kind: type = str
    optional: bool = False
    default: Any = None

    @property
    def expected(self) -> str:
        """The values in words.

        >>> Option("units", 1, 512, kind=int, optional=True).expected
        'an integer from 1 to 512, or None'
        """
        if self.kind is bool:
            text = "True or False"
        elif self.choices:
            text = " or ".join(filter(None, (", ".join(self.choices[:-1]), self.choices[-1])))
        else:
            limits = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
            words = " and ".join(f"{word} {limit}" for word, limit in limits.items() if limit is not None)
            if self.least is not None and self.most is not None:
                words = f"from {self.least} to {self.most}"
            text = f"{'an integer' if self.kind is int else 'a number'} {words}".rstrip()
        return f"{text}, or None" if self.optional else text

    def check(self, name: str, value: Any) -> Any:
        """The value as bool, int, float or str; TypeError or ValueError, naming the option, for any other."""
        if value is None and self.optional:
            return None
        wanted = {bool: bool, int: Integral, float: Real, str: str}[self.kind]
        if not isinstance(value, wanted) or (self.kind is not bool and isinstance(value, bool)):
            raise TypeError(f"{name}: expected {self.expected}, got {value!r}")
        plain = self.kind(value)
        if not self._fits(plain):
            raise ValueError(f"{name}: expected {self.expected}, got {value!r}")
        return plain

    def _fits(self, value: Any) -> bool:
        if self.kind in (bool, str):
            return not self.choices or value in self.choices
        return (
            (self.kind is int or math.isfinite(value))
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def one_of(meaning: str, choices: Iterable[str]) -> Option:
    """An option with names for values."""
    return Option(meaning, choices=tuple(choices))


# what several systems have
Levels = Annotated[int | None, Option("data are integers 0 to levels - 1; None for real numbers", 2, 1 << 24)]
Classes = Annotated[int | None, Option("the condition is one of so many labels", 1, 1 << 20)]
ContextDim = Annotated[int | None, Option("the condition is so many numbers", 1, WIDTH)]
Dequantize = Annotated[str, one_of("noise that makes integers real: even, or learned", ("uniform", "variational"))]
MemoryFlat = Annotated[bool, Option("train in the memory of one layer, by inverting the others")]
Activation = Annotated[str, one_of("what the hidden units compute", ACTIVATIONS)]
Architecture = Annotated[
    str, one_of("for flat events, or images in several scales; auto: by the shape", ("auto", "vector", "multiscale"))
]
Limit = Annotated[float, Option("largest log-scale of a layer", above=0, most=80)]
Time = Annotated[str, one_of("how a layer of the field hears the time", TIMES)]
Method = Annotated[str, one_of("Runge-Kutta or Adams method of the solver", METHODS)]
Steps = Annotated[int | None, Option("equal steps of the solver; None: adaptive, where the method can", 1, 1 << 16)]
Tolerance = Annotated[float, Option("relative (rtol) or absolute (atol) tolerance of adaptive steps", least=0)]


Chooser = Callable[[tuple[int, ...], dict[str, Any]], dict[str, Any]]
"""(shape, options) -> the options that were left to the system, as it chooses them."""


def by_architecture(side: int, vector: dict[str, Any], multiscale: dict[str, Any]) -> Chooser:
    """Chooses "multiscale" for "auto" on images of at least ``side`` x ``side`` pixels, and the sizes that are None.

    >>> choose = by_architecture(8, vector={"width": 128}, multiscale={"width": 16})
    >>> choose((1, 8, 8), {"architecture": "auto", "width": None})
    {'architecture': 'multiscale', 'width': 16}
    """

    def choose(shape: tuple[int, ...], options: dict[str, Any]) -> dict[str, Any]:
        architecture = options["architecture"]
        if architecture == "auto":
            architecture = "multiscale" if len(shape) == 3 and min(shape[1:]) >= side else "vector"
        if architecture == "multiscale" and len(shape) != 3:
            raise ValueError(f"architecture: multiscale expects events (C, H, W), got {shape}; auto, vector take any")
        sizes = vector if architecture == "vector" else multiscale
        left = {name: size for name, size in sizes.items() if options[name] is None}
        return {"architecture": architecture, **left}

    return choose


def declared(builder: Callable[..., Any]) -> dict[str, Option]:
    """The options of a builder, in order; one that is not annotated with an Option takes any value."""
    hints = typing.get_type_hints(builder, include_extras=True)
    found: dict[str, Option] = {}
    for name, parameter in inspect.signature(builder).parameters.items():
        marks = [mark for mark in getattr(hints.get(name), "__metadata__", ()) if isinstance(mark, Option)]
        if not marks:
            continue
        kind = typing.get_args(hints[name])[0]
        kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        plain = next(k for k in kinds if k is not type(None))
        found[name] = replace(marks[0], kind=plain, optional=type(None) in kinds, default=parameter.default)
    return found
