"""Systems by name: one decorated builder per published system, one way to create any of them."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from .model import GenerativeModel

P = ParamSpec("P")
Model = TypeVar("Model", bound=GenerativeModel)

_BUILDERS: dict[str, Callable[..., GenerativeModel]] = {}


def register(name: str) -> Callable[[Callable[P, Model]], Callable[P, Model]]:
    """Decorate a builder ``(shape, *, **options) -> GenerativeModel``: name it, and write down every model's config.

    All options need defaults and JSON values. The model's ``config`` then holds the name, the shape and every option,
    given or not, so that a later change of a default leaves saved models alone.
    """

    def decorate(builder: Callable[P, Model]) -> Callable[P, Model]:
        @functools.wraps(builder)
        def build(*args: P.args, **kwargs: P.kwargs) -> Model:
            bound = inspect.signature(builder).bind(*args, **kwargs)
            bound.apply_defaults()
            shape = [int(n) for n in bound.arguments["shape"]]
            if not shape or min(shape) < 1:
                raise ValueError(f"{name} expects an event shape of positive sizes, got {tuple(shape)}")
            if bound.arguments.get("classes") is not None and bound.arguments.get("context_dim") is not None:
                raise ValueError(f"{name} expects classes or context_dim, not both")
            model = builder(*args, **kwargs)
            model.config = json.loads(json.dumps({"name": name, **bound.arguments, "shape": shape}, allow_nan=False))
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


def create(name: str, shape: Sequence[int], **config: Any) -> GenerativeModel:
    """Build a system for events of ``shape``; ``config`` holds its options (:func:`defaults` lists them).

    ``zoo.create(config.pop("name"), **config)`` with a copy of ``model.config`` builds the same model again. Raises
    ValueError for a name, TypeError for an option that does not exist; both list the right ones.

    >>> from pyflowk import zoo
    >>> model = zoo.create("realnvp", (2,))
    >>> model.sample(3).shape
    torch.Size([3, 2])
    """
    options = defaults(name)
    unknown = sorted(set(config) - set(options))
    if unknown:
        raise TypeError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(options)}")
    return _find(name)(tuple(shape), **config)


def _find(name: str) -> Callable[..., GenerativeModel]:
    if name not in _BUILDERS:
        close = difflib.get_close_matches(str(name), names(), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"no system named {name!r}{hint}; there are {', '.join(names())}")
    return _BUILDERS[name]
