"""The faces of other packages over this one, for code that is to change an import and nothing else; and
:func:`accelerate`, for flows of other packages.

`accelerate` puts the kernels into a flow of zuko, nflows or normflows; its `Acceleration` tells of every `Part` what
runs where. `as_distribution` makes a torch distribution, a `Density`, of any density of this package. Each to be
imported by itself: `pyflowk.compat.torchdiffeq`, `torchcfm` and `flow_matching` take these packages' calls,
`diffusers` takes its schedulers' grids, `sbi` learns posteriors by sbi's calls, and `sklearn` holds an estimator of
densities.
"""

from .acceleration import Acceleration, Part, accelerate
from .distributions import Density, as_distribution

__all__ = ["Acceleration", "Density", "Part", "accelerate", "as_distribution"]
