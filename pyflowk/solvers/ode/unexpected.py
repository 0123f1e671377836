"""What is said about an argument that a solver does not take: where it belongs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from .stepping import Adaptive, Fixed

__all__ = ["unexpected"]

#: argument -> where it is given.
_PLACES = {
    **{f.name: f"stepping={kind.__name__}({f.name}=...)" for kind in (Adaptive, Fixed) for f in fields(kind)},
    "options": "stepping=Adaptive(...) or Fixed(...)",
    "checkpoint_every": "adjoint=Recompute(every=...)",
    "params": "adjoint=Backsolve(params=...)",
    "adjoint_options": "adjoint=Backsolve(method=..., stepping=Adaptive(...))",
}


def unexpected(function: str, names: Iterable[str]) -> TypeError:
    """The error for arguments that belong elsewhere, or nowhere.

    >>> unexpected("solve_ivp", ["rtol", "steps"])
    TypeError('solve_ivp: expected stepping=Adaptive(rtol=...), stepping=Fixed(steps=...); got rtol, steps')
    """
    names = list(names)
    known = [_PLACES[name] for name in names if name in _PLACES]
    wanted = known if len(known) == len(names) else ["no such argument"]
    return TypeError(f"{function}: expected {', '.join(wanted)}; got {', '.join(names)}")
