"""The faces of other packages over this one, for code that is to change an import and nothing else; and
:func:`accelerate`, for flows of other packages.

`accelerate` puts the kernels into a flow of zuko, nflows or normflows; its `Acceleration` tells of every `Part` what
runs where. `pyflowk.compat.torchdiffeq` takes torchdiffeq's calls.
"""

from .acceleration import Acceleration, Part, accelerate

__all__ = ["Acceleration", "Part", "accelerate"]
