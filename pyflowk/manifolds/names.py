"""Manifolds by name, as configs and checkpoints say them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from .base import Manifold
from .flat import Euclidean, Torus
from .product import Product
from .rotations import SO3
from .sphere import Sphere

_KINDS: dict[str, type[Manifold]] = {"sphere": Sphere, "torus": Torus, "so3": SO3, "euclidean": Euclidean}
MANIFOLDS = tuple(_KINDS)
"""The kinds by name."""
_FACTOR = re.compile(r"(\w+)(?:\((\d+)\))?")


def manifold(name: str, shape: Sequence[int]) -> Manifold:
    """The manifold of a name, for events of a shape.

    "sphere", "torus", "so3" and "euclidean" take the whole event: a shape (5, 3) holds five points of the sphere in
    space. "sphere(3) x torus(2) x so3" is a product, each factor with how many of the event's numbers it takes (a
    rotation takes 9), and the event a vector of all of them. Raises ValueError or TypeError for any other name, and
    for a shape that does not hold such points.

    >>> from pyflowk.manifolds import manifold
    >>> manifold("sphere", (3,)).dim, manifold("sphere(3) x torus(2) x so3", (14,)).dim
    (2, 7)
    """
    shape = tuple(shape)
    pieces = _factors(name)
    if len(pieces) == 1 and pieces[0][1] is None:
        return _KINDS[pieces[0][0]](shape)
    parts: list[Manifold] = []
    for kind, size in pieces:
        if kind == "so3":
            if size not in (None, 9):
                raise ValueError(f"manifold: expected so3, of 9 numbers, in {name!r}, got {size}")
            parts.append(SO3())
        elif size is None:
            raise ValueError(f"manifold: expected how many numbers {kind} has in {name!r}, such as {kind}(3)")
        else:
            parts.append(_KINDS[kind]((size,)))
    found = Product(parts)
    if shape != found.shape:
        raise ValueError(f"manifold: expected events {found.shape} of {name!r}, got {shape} of {math.prod(shape)}")
    return found


def factors(name: str) -> tuple[str, ...]:
    """The kinds that a name has, one of `MANIFOLDS` each; ValueError or TypeError for what is no name.

    >>> from pyflowk.manifolds import factors
    >>> factors("sphere(3) x torus(2)")
    ('sphere', 'torus')
    """
    return tuple(kind for kind, _ in _factors(name))


def _factors(name: str) -> list[tuple[str, int | None]]:
    if not isinstance(name, str):
        raise TypeError(f"manifold: expected a name, such as 'sphere', got {name!r}")
    found = [_FACTOR.fullmatch(part.strip()) for part in name.split(" x ")]
    if any(match is None or match[1] not in _KINDS for match in found):
        raise ValueError(
            f"manifold: expected one of {', '.join(MANIFOLDS)}, a product such as 'sphere(3) x torus(2)', or None, "
            f"got {name!r}"
        )
    return [(match[1], int(match[2]) if match[2] else None) for match in found if match is not None]
