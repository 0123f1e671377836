"""Systems by name: one decorated builder per published system, one way to create any of them."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from .._hints import did_you_mean, owner_of, require_free
from ..manifolds import MANIFOLDS, factors
from ..space import KINDS, Context, Space
from .model import GenerativeModel
from .option import WIDTH, Chooser, Option, built, checked, declared

P = ParamSpec("P")
Model = TypeVar("Model", bound=GenerativeModel)
Built = TypeVar("Built", bound=GenerativeModel, covariant=True)

VALUES = {"real": "real numbers", "levels": "levels", "symbols": "symbols"}
FLOWS = ("real", "levels", "labels", "numbers")
"""What a flow takes: real numbers or levels, given labels or numbers."""
PLAIN = {
    "levels": Option("data are integers 0 to levels - 1; None for real numbers", 2, 1 << 24, kind=int, optional=True),
    "classes": Option("the condition is one of so many labels", 1, 1 << 20, kind=int, optional=True),
    "context_dim": Option("the condition is so many numbers", 1, WIDTH, kind=int, optional=True),
}
"""The arguments that stand beside a shape in place of a Space."""
CONDITIONS = {"labels": "on labels with classes=N", "numbers": "on N numbers with context_dim=N"}
"""How those say that models have a context."""
RESERVED = {"name", "space", "shape", *PLAIN}


class System(Protocol[P, Built]):
    """A builder as it is called: with a Space, or in short with the shape of one event and plain arguments."""

    @overload
    def __call__(self, space: Space, *args: P.args, **options: P.kwargs) -> Built: ...

    @overload
    def __call__(
        self,
        space: Sequence[int],
        *,
        levels: int | None = None,
        classes: int | None = None,
        context_dim: int | None = None,
        **options: Any,
    ) -> Built: ...


@dataclass(frozen=True)
class Entry:
    """What is known of a system before it is built."""

    build: Callable[..., GenerativeModel]
    options: dict[str, Option]
    sampling: dict[str, Option]
    takes: tuple[str, ...]
    owner: str


_SYSTEMS: dict[str, Entry] = {}


def register(
    name: str, choose: Chooser | None = None, takes: Sequence[str] = FLOWS
) -> Callable[[Callable[Concatenate[Space, P], Model]], System[P, Model]]:
    """Decorate a builder ``(space, *, **options) -> model``: name it, and write down every model's config.

    All options need defaults, JSON values and an :class:`~pyflowk.zoo.option.Option` in their annotation, which checks
    what is given; the annotation of the result names the model's class. ``choose`` settles what "auto" and None leave
    to the system. ``takes`` are the kinds of space: "real", "levels" and "symbols", "variable" for several lengths,
    manifolds by their names, products where their factors are; and of context: "labels", "numbers", "tokens", each
    beside none. The builder sees no other. The model's ``config`` then holds the name, the space and every option as it
    was used, so that a later change of a default leaves saved models alone. Raises ValueError for a name that another
    builder has, or for a kind of space that there is not, TypeError for options that are declared otherwise.
    """
    unknown = [word for word in takes if word not in (*VALUES, "variable", *MANIFOLDS, *KINDS)]
    if unknown:
        raise ValueError(f"takes: expected {', '.join((*VALUES, 'variable', *MANIFOLDS, *KINDS))}; got {unknown[0]!r}")

    def decorate(builder: Callable[Concatenate[Space, P], Model]) -> System[P, Model]:
        owner = owner_of(builder)
        require_free("system", name, owner, _SYSTEMS[name].owner if name in _SYSTEMS else None)
        known = declared(builder)
        assemble: Callable[..., Model] = builder  # whose options come from everywhere
        if RESERVED & known.keys():
            raise TypeError(f"{name}: expected other names than {', '.join(RESERVED & known.keys())} for options")

        @functools.wraps(builder)
        def build(space: Space | Sequence[int], **given: Any) -> Model:
            plain = {key: given.pop(key) for key in PLAIN if key in given}
            where = _space(name, space, plain)
            _check_takes(name, takes, where)
            options = {key: option.default for key, option in known.items()} | checked(
                name, "option", known, given, PLAIN
            )
            options |= choose(where, options) if choose is not None else {}
            model = assemble(where, **options)
            written = {"name": name, "space": where.as_json(), **options}
            model.config = json.loads(json.dumps(written, allow_nan=False))
            return model

        first, *rest = (inspect.getdoc(builder) or "").split("\n\n")
        build.__doc__ = "\n\n".join(filter(None, (first, _condition(takes), *rest)))
        shown = inspect.signature(builder)
        plain = [p for p in shown.parameters.values() if p.kind is not p.VAR_KEYWORD]
        shared = [key for key in known if key not in shown.parameters]
        more = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=known[key].default) for key in shared]
        cast(Any, build).__signature__ = shown.replace(parameters=[*plain, *more])
        sampling = built(builder, GenerativeModel).sampling_options
        _SYSTEMS[name] = Entry(build, known, sampling, tuple(takes), owner)
        return cast(Any, build)

    return decorate


def names() -> list[str]:
    """The systems there are, sorted.

    >>> from pyflowk import zoo
    >>> "realnvp" in zoo.names()
    True
    """
    return sorted(_SYSTEMS)


def describe(name: str) -> str:
    """The first sentence of the system's documentation."""
    return (inspect.getdoc(_find(name).build) or "").split("\n\n")[0].replace("\n", " ")


def condition(name: str) -> str:
    """How to give the system's models a context, in a sentence; nothing for a system that takes none.

    >>> from pyflowk import zoo
    >>> zoo.condition("nice")
    'Conditional on labels with classes=N, on N numbers with context_dim=N, or on the context of a Space.'
    """
    return _condition(_find(name).takes)


def options(name: str) -> dict[str, Option]:
    """The options of a system: what each means, which values it takes, its default.

    >>> from pyflowk import zoo
    >>> zoo.options("nice")["couplings"].expected
    'an integer from 1 to 1000'
    """
    return dict(_find(name).options)


def sampling(name: str) -> dict[str, Option]:
    """The same for the options of its models' ``sample``.

    >>> from pyflowk import zoo
    >>> {key: option.default for key, option in zoo.sampling("nice").items()}
    {'temperature': 1.0}
    """
    return dict(_find(name).sampling)


def takes(name: str) -> tuple[str, ...]:
    """The kinds of spaces and contexts that a system is for, in the words of :func:`register`.

    >>> from pyflowk import zoo
    >>> zoo.takes("nice")
    ('real', 'levels', 'labels', 'numbers')
    """
    return _find(name).takes


def defaults(name: str) -> dict[str, Any]:
    """The options of a system with their defaults."""
    return {key: option.default for key, option in options(name).items()}


def check(name: str, options: dict[str, Any], sampling: Mapping[str, Any] = {}) -> None:
    """Raise ValueError for a system, TypeError for an option that does not exist, either for a value it cannot take."""
    entry = _find(name)
    checked(name, "option", entry.options, options, PLAIN)
    checked(name, "sampling option", entry.sampling, sampling)


def create(
    name: str,
    space: Space | Sequence[int] | Mapping[str, Any] | None = None,
    *,
    shape: Sequence[int] | None = None,
    **config: Any,
) -> GenerativeModel:
    """Build a system for the events of a ``space``; ``config`` holds its options (:func:`defaults` lists them).

    In place of the Space the shape of one event will do, and beside it ``levels``, ``classes`` and ``context_dim``.
    ``zoo.create(config.pop("name"), **config)`` with a copy of ``model.config`` builds the same model again. Raises
    ValueError for a name, TypeError for an option that does not exist, listing the right ones; either for a value that
    an option cannot take (:func:`options` tells which it can); and ValueError for a space that the system is not for.

    >>> from pyflowk import zoo
    >>> from pyflowk.space import Context, Space
    >>> zoo.create("realnvp", (2,)).sample(3).shape
    torch.Size([3, 2])
    >>> zoo.create("realnvp", Space((2,), context=Context("labels", 3))).config == zoo.realnvp((2,), classes=3).config
    True
    """
    entry = _find(name)
    if (space is None) == (shape is None):  # configs of the first versions have a shape
        got = "neither" if space is None else "both"
        raise TypeError(f"{name}: expected a space or the shape of one event, got {got}")
    where: Any = shape if space is None else space
    return entry.build(Space.from_json(where) if isinstance(where, Mapping) else where, **config)


def _find(name: str) -> Entry:
    if name not in _SYSTEMS:
        raise ValueError(f"no system named {name!r}{did_you_mean(name, names())}; there are {', '.join(names())}")
    return _SYSTEMS[name]


def _space(name: str, space: Space | Sequence[int], plain: dict[str, Any]) -> Space:
    """The space of the short form, whose sizes are checked, or the one given."""
    plain = {key: PLAIN[key].check(key, value) for key, value in plain.items() if value is not None}
    if not isinstance(space, Space):
        if {"classes", "context_dim"} <= plain.keys():
            raise ValueError(f"{name} expects classes or context_dim, not both")
        context = Context("labels", plain["classes"]) if "classes" in plain else None
        context = Context("numbers", plain["context_dim"]) if "context_dim" in plain else context
        return Space(cast(Any, space), plain.get("levels"), context=context)
    if plain:
        more = ", ".join(f"{key}={value}" for key, value in plain.items())
        raise TypeError(f"{name}: expected a Space by itself, or a shape with {more}; got both, the Space {space}")
    for key, option in PLAIN.items():
        option.check(key, getattr(space, key))
    return space


def _condition(takes: Sequence[str]) -> str:
    ways = [way for word, way in CONDITIONS.items() if word in takes]
    return f"Conditional {', '.join(ways)}, or on the context of a Space." if ways else ""


def _check_takes(name: str, takes: Sequence[str], space: Space) -> None:
    events = replace(space, context=None)
    of_length = not space.variable or "variable" in takes
    kinds_of = {space.kind, *(factors(space.manifold) if space.manifold else ())}
    if not (of_length and kinds_of <= set(takes)):
        kinds = " or ".join(words for word, words in VALUES.items() if word in takes)
        where = "".join(f", on the {word}" for word in MANIFOLDS if word in takes)
        lengths = "of one length or several" if "variable" in takes else "of one length"
        real = "real events of " if space.kind == "real" else ""
        raise ValueError(f"{name} takes {kinds} {lengths}{where}; got {real}{events}")
    if space.context is not None and space.context.kind not in takes:
        kinds = " or ".join(kind for kind in KINDS if kind in takes) or "none"
        raise ValueError(f"{name} takes {kinds} as context; got {space.context}")
