"""Distributions with a density and a sampler: the bases of flows, and the noise that paths to data start from.

`Distribution` is the contract. `DiagonalGaussian`, `ClassConditionalGaussian` and `GaussianMixture` can be learned;
`Uniform` is flat on a box, `UniformSphere` and `UniformTorus` on a manifold; `Categorical` draws symbols.
"""

from .base import Distribution
from .categorical import Categorical
from .gaussian import ClassConditionalGaussian, DiagonalGaussian
from .mixture import GaussianMixture
from .uniform import Uniform, UniformSphere, UniformTorus

__all__ = [
    "Categorical",
    "ClassConditionalGaussian",
    "DiagonalGaussian",
    "Distribution",
    "GaussianMixture",
    "Uniform",
    "UniformSphere",
    "UniformTorus",
]
