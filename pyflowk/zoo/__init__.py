"""Published systems, one file each, assembled from the floors below; every one trains and samples the same way.

`create` builds one by name: `nice`, `realnvp`, `glow`, `maf`, `iaf`, `nsf`, `neural_ode`, `ffjord`, `residual_flow`.
`names` lists them, `describe` says what one is, `options` and `defaults` what it takes, `check` whether it takes that.
All are a `GenerativeModel`, those of one flow a `FlowModel`; `register` adds one.
"""

from .ffjord import ffjord
from .glow import glow
from .iaf import iaf
from .maf import maf
from .model import FlowModel, GenerativeModel
from .neural_ode import neural_ode
from .nice import nice
from .nsf import nsf
from .realnvp import realnvp
from .registry import check, create, defaults, describe, names, options, register
from .residual_flow import residual_flow

__all__ = [
    "FlowModel", "GenerativeModel", "check", "create", "defaults", "describe", "ffjord", "glow", "iaf", "maf", "names",
    "neural_ode", "nice", "nsf", "options", "realnvp", "register", "residual_flow",
]  # fmt: skip
