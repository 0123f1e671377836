"""Curved spaces that events lie on, and their geometry: geodesics, tangents, distances, volumes.

A `Manifold` is a `Sphere`, a flat `Torus`, the rotations `SO3`, `Euclidean` space, or a `Product` of them; `manifold`
makes one from its name and the shape of an event, and `factors` are the kinds in a name, each one of `MANIFOLDS`.
"""

from .base import Manifold
from .flat import Euclidean, Torus
from .names import MANIFOLDS, factors, manifold
from .product import Product
from .rotations import SO3
from .sphere import Sphere

__all__ = ["MANIFOLDS", "SO3", "Euclidean", "Manifold", "Product", "Sphere", "Torus", "factors", "manifold"]
