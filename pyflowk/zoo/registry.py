"""Systems by name: one decorated builder per published system, one way to create any of them."""

from __future__ import annotations

import functools
import inspect
import json
import operator
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from .._hints import did_you_mean
from .model import GenerativeModel
from .option import Chooser, Option, declared

P = ParamSpec("P")
Model = TypeVar("Model", bound=GenerativeModel)

_BUILDERS: dict[str, Callable[..., GenerativeModel]] = {}


def register(name: str, choose: Chooser | None = None) -> Callable[[Callable[P, Model]], Callable[P, Model]]:
    """Decorate a builder ``(shape, *, **options) -> GenerativeModel``: name it, and write down every model's config.

    All options need defaults, JSON values and an :class:`~pyflowk.zoo.option.Option` in their annotation, which
    checks what is given. ``choose`` settles what "auto" and None leave to the system. The model's ``config`` then holds
    the name, the shape and every option as it was used, so that a later change of a default leaves saved models alone.
    """

    def decorate(builder: Callable[P, Model]) -> Callable[P, Model]:
        signature, known = inspect.signature(builder), declared(builder)

        @functools.wraps(builder)
        def build(*args: P.args, **kwargs: P.kwargs) -> Model:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            options: dict[str, Any] = dict(bound.arguments)
            shape = _shape(name, options.pop("shape"))
            options |= {key: option.check(key, options[key]) for key, option in known.items()}
            if options.get("classes") is not None and options.get("context_dim") is not None:
                raise ValueError(f"{name} expects classes or context_dim, not both")
            options |= choose(shape, options) if choose is not None else {}
            model: Model = builder(shape, **options)  # type: ignore[arg-type]
            model.config = json.loads(json.dumps({"name": name, "shape": shape, **options}, allow_nan=False))
            return model

        _BUILDERS[name] = build
        return build

    return decorate


def names() -> list[str]:
    """The systems there are, sorted.

    >>> from pyflowk import zoo
    >>> "realnvp" in zoo.names()
    True
    """
    return sorted(_BUILDERS)


def describe(name: str) -> str:
    """The first sentence of the system's documentation."""
    return (inspect.getdoc(_find(name)) or "").split("\n\n")[0].replace("\n", " ")


def defaults(name: str) -> dict[str, Any]:
    """The options of a system with their defaults, without the shape."""
    parameters = inspect.signature(_find(name)).parameters
    return {key: p.default for key, p in parameters.items() if key != "shape"}


def options(name: str) -> dict[str, Option]:
    """The options of a system: what each means, which values it takes, its default.

    >>> from pyflowk import zoo
    >>> zoo.options("nice")["couplings"].expected
    'an integer from 1 to 1000'
    """
    return declared(_find(name))


def check(name: str, config: dict[str, Any]) -> None:
    """Raise ValueError for a system, TypeError for an option that does not exist, either for a value it cannot take."""
    known = defaults(name)
    for key in config:
        if key not in known:
            hint = did_you_mean(key, known)
            raise TypeError(f"{name} has no option {key}{hint}; it has {', '.join(known)}")
    for key, option in options(name).items():
        if key in config:
            option.check(key, config[key])


def create(name: str, shape: Sequence[int], **config: Any) -> GenerativeModel:
    """Build a system for events of ``shape``; ``config`` holds its options (:func:`defaults` lists them).

    ``zoo.create(config.pop("name"), **config)`` with a copy of ``model.config`` builds the same model again. Raises
    ValueError for a name, TypeError for an option that does not exist, listing the right ones; and either for a value
    that an option cannot take (:func:`options` tells which it can).

    >>> from pyflowk import zoo
    >>> model = zoo.create("realnvp", (2,))
    >>> model.sample(3).shape
    torch.Size([3, 2])
    """
    check(name, config)
    return _find(name)(shape, **config)


def _find(name: str) -> Callable[..., GenerativeModel]:
    if name not in _BUILDERS:
        raise ValueError(f"no system named {name!r}{did_you_mean(name, names())}; there are {', '.join(names())}")
    return _BUILDERS[name]


def _shape(name: str, shape: Any) -> tuple[int, ...]:
    """The event's shape as positive integers."""
    try:
        sizes = tuple(operator.index(n) for n in shape)
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{name} expects an event shape of positive sizes, such as (2,) or (1, 8, 8); got {shape!r}")
    return sizes
