"""What each option of a system means and which values it takes: declared in the builder's signature, read everywhere.

The checks of `create`, the table of `pyflowk zoo MODEL` and its errors come from the same line.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Annotated, Any

from typing_extensions import TypedDict  # torch brings it

from .._hints import did_you_mean
from ..nets import CONDITIONER_ACTIVATIONS, FIELD_ACTIVATIONS, TIMES
from ..ops.hutchinson import NOISES
from ..solvers import METHODS
from ..space import Space
from ..transforms.continuous import DIVERGENCES

LAYERS, WIDTH = 1000, 1 << 16
"""More layers, or units of one, are taken for a slip: they would fill the memory before the first error."""


@dataclass(frozen=True)
class Option:
    """A sentence about an option, and its values: numbers from ``least`` to ``most``, or one of ``choices``.

    ``above`` and ``below`` are limits that are not reached. Type, default and whether None is taken come from the
    signature that the option stands in: ``width: Annotated[int | None, Option("units of a layer", 1, 512)] = None``.
    One that stands in a TypedDict, which builders share as ``**shared: Unpack[...]``, has its own ``default``.
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
        elif self.kind is str and not self.choices:
            text = "text"
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
            (self.kind is int or -math.inf < value < math.inf)  # which torch.compile follows, as it does not isfinite
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def require_usual(options: object, *names: str, without: str) -> None:
    """ValueError for an option that is not as by default, where nothing hears of it without another one."""
    for name in names:
        value = getattr(options, name)
        if value != getattr(type(options), name):
            raise ValueError(f"{name}: is for {without} other than 0; got {value!r} without it")


def one_of(meaning: str, choices: Iterable[str], default: str | None = None) -> Option:
    """An option with names for values."""
    return Option(meaning, choices=tuple(choices), default=default)


# what several systems have
Dequantizer = Annotated[str, one_of("noise that makes integers real: even, or learned", ("uniform", "variational"))]
FlatMemory = Annotated[bool, Option("train in the memory of one layer, by inverting the others")]
LearnedInverse = Annotated[bool, Option("a network of its own learns to undo the flow in one evaluation")]
Nonlinearity = Annotated[str, one_of("what the hidden units compute", CONDITIONER_ACTIVATIONS)]
Width = Annotated[int, Option("units of a hidden layer", 1, WIDTH)]
Architecture = Annotated[
    str, one_of("for flat events, or images in several scales; auto: by the shape", ("auto", "vector", "multiscale"))
]
Limit = Annotated[float, Option("largest log-scale of a layer", above=0, most=80)]
Time = Annotated[str, one_of("how a layer of the field hears the time", TIMES)]
Method = Annotated[str, one_of("Runge-Kutta or Adams method of the solver", METHODS)]
Steps = Annotated[int | None, Option("equal steps of the solver; None: adaptive, where the method can", 1, 1 << 16)]
Dropout = Annotated[
    float, Option("share of events learned without their context, for guidance", least=0, below=1, default=0.0)
]
Tolerance = Annotated[float, Option("relative (rtol) or absolute (atol) tolerance of adaptive steps", least=0)]


class DivergenceOptions(TypedDict, total=False):
    """What all systems take whose density needs a divergence: a builder's ``**shared: Unpack[DivergenceOptions]``."""

    divergence: Annotated[str, one_of("of the field; auto: exact up to 3 elements", ("auto", *DIVERGENCES), "auto")]
    probes: Annotated[int, Option("random directions of an estimate; an even number for hutch++", 1, WIDTH, default=1)]
    noise: Annotated[str, one_of("kind of the random directions", NOISES, "rademacher")]


class NetworkOptions(TypedDict, total=False):
    """What all systems take whose network is one of vectors or of images."""

    architecture: Annotated[
        str,
        one_of(
            "the network: perceptron, plain convolutions, U-Net or transformer; auto: by the shape",
            ("auto", "vector", "image", "unet", "dit"),
            "auto",
        ),
    ]
    width: Annotated[
        int | None,
        Option(
            "units (vector: 128), channels (image: 32, unet: 16 at its first level) or of a token (dit: 64)", 1, WIDTH
        ),
    ]
    depth: Annotated[int | None, Option("hidden layers (3), blocks of a level (unet: 1) or all (dit: 4)", 1, LAYERS)]
    patch: Annotated[int | None, Option("side of a token in pixels, if dit; None: 2 up, for 4 to 64 tokens", 1, WIDTH)]
    activation: Annotated[
        str | None, one_of("what hidden units compute, if vector (silu) or image (silu)", FIELD_ACTIVATIONS)
    ]
    time: Annotated[str | None, one_of("how layers hear the time, if vector (concat) or image (concat)", TIMES)]
    dropout: Dropout


class VelocityOptions(DivergenceOptions, NetworkOptions, total=False):
    """What all systems take whose network is a velocity, with densities by its divergence."""


Chooser = Callable[[Space, dict[str, Any]], dict[str, Any]]
"""(space, options) -> the options that were left to the system, as it chooses them."""


def declared(declaration: Callable[..., Any]) -> dict[str, Option]:
    """The options that a builder's keywords or a dataclass's fields declare, in order.

    Raises TypeError for one without a default, without an Option in its annotation, or of a kind that is no JSON value;
    either error for a default that the Option does not take.
    """
    hints = typing.get_type_hints(declaration, include_extras=True)
    if dataclasses.is_dataclass(declaration):
        fields = dataclasses.fields(declaration)
        return {field.name: _option(field.name, hints[field.name], field.default) for field in fields}
    known = {}
    for name, parameter in inspect.signature(declaration).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            known[name] = _option(name, hints[name], parameter.default)
        elif parameter.kind is parameter.VAR_KEYWORD:
            for shared in typing.get_args(hints[name]):
                for key, hint in typing.get_type_hints(shared, include_extras=True).items():
                    known[key] = _option(key, hint, *(mark.default for mark in _marks(hint)))
    return known


def _marks(hint: Any) -> list[Option]:
    return [mark for mark in typing.get_args(hint)[1:] if isinstance(mark, Option)]


def _option(name: str, hint: Any, default: Any = inspect.Parameter.empty) -> Option:
    marks = _marks(hint)
    if not marks or default is inspect.Parameter.empty or default is dataclasses.MISSING:
        raise TypeError(f"{name}: expected a default, and an Option in the annotation, got {hint} and {default}")
    kind = typing.get_args(hint)[0]
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    plain = [k for k in kinds if k is not type(None)]
    if len(plain) != 1 or plain[0] not in (bool, int, float, str):
        raise TypeError(f"{name}: expected one of bool, int, float and str, or None beside it, got {kind}")
    found = replace(marks[0], kind=plain[0], optional=type(None) in kinds, default=default)
    found.check(f"the default of {name}", default)
    return found


def checked(
    owner: str, what: str, known: Mapping[str, Option], given: Mapping[str, Any], beside: Iterable[str] = ()
) -> dict[str, Any]:
    """The given options as plain values; TypeError for one that the owner does not have, listing those that it has and
    what stands ``beside`` the shape of an event."""
    for name in given:
        if name not in known:
            there, more = ", ".join(known) or "none", ", ".join(beside)
            more = f"; and beside a shape {more}" if more else ""
            raise TypeError(
                f"{owner} has no {what} {name}{did_you_mean(name, [*known, *beside])}; it has {there}{more}"
            )
    return {name: known[name].check(name, value) for name, value in given.items()}


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


def built(builder: Callable[..., Any], kind: type) -> Any:
    """The class of what a builder returns, by its annotation; TypeError unless it is one of a kind."""
    found = typing.get_type_hints(builder).get("return")
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise TypeError(f"{builder.__name__}: expected a {kind.__name__} as annotated result, got {found}")
    return found
