"""Names in registries: what somebody may have meant, and whether another thing bears the name already."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

Named = type | FunctionType | BuiltinFunctionType | MethodType


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`" (did you mean 'realnvp'?)"` where one of the known names is close, or nothing.

    >>> did_you_mean("realnpv", ["nice", "realnvp"])
    " (did you mean 'realnvp'?)"
    """
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), names, n=1)
    return f" (did you mean {names[close[0]]!r}?)" if close else ""


def owner_of(function: Callable[..., Any]) -> str:
    """Where a function was written, module and name: the same again is a file read again, or a cell of a notebook.

    >>> owner_of(did_you_mean), owner_of(functools.partial(did_you_mean, "x"))
    ('pyflowk._hints.did_you_mean', 'pyflowk._hints.did_you_mean')
    """
    while isinstance(function, functools.partial):
        function = function.func
    named: Any = function if isinstance(function, Named) else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def require_free(what: str, name: str, owner: str, holder: str | None) -> None:
    """Raise ValueError where another function holds the name in a registry, TypeError for a name that is no word."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"{what}: expected a name, got {name!r}")
    if holder is not None and holder != owner:
        raise ValueError(f"the {what} {name!r} is there already, by {holder}; {owner} needs another name")
