"""Distributions with a density and a sampler: the bases of flows, and the noise that paths to data start from.

`Distribution` is the contract. `DiagonalGaussian`, `ClassConditionalGaussian` and `GaussianMixture` can be learned;
`Uniform` is flat on a box, `UniformSphere`, `UniformTorus` and `UniformSO3` on a manifold, `uniform_on` any of them;
`Joint` puts several side by side; `Categorical` draws symbols, `Empirical` rows of data.
"""

from .base import Distribution
from .categorical import Categorical
from .empirical import Empirical
from .gaussian import ClassConditionalGaussian, DiagonalGaussian
from .joint import Joint
from .mixture import GaussianMixture
from .uniform import Uniform, UniformSO3, UniformSphere, UniformTorus, uniform_on

__all__ = [
    "Categorical",
    "ClassConditionalGaussian",
    "DiagonalGaussian",
    "Distribution",
    "Empirical",
    "GaussianMixture",
    "Joint",
    "Uniform",
    "UniformSO3",
    "UniformSphere",
    "UniformTorus",
    "uniform_on",
]
