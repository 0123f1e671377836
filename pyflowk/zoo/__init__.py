"""Published systems, one file each, assembled from the floors below; every one trains and samples the same way.

`create` builds one by name: `nice`, `realnvp`, `glow`, `maf`, `iaf`, `nsf`, `neural_ode`, `ffjord`, `residual_flow`,
`tarflow`, `starflow`, `flow_matching`, `rectified_flow`, `diffusion`, `mean_flow`, `consistency`, `drifting`,
`generator_matching`, `discrete_flow`, `edit_flow`, `token_flow`, `autoencoder` and, any of them inside of one,
`latent`. `names` lists them, `describe` says what one is, `options` and `defaults` what it takes, `sampling` what its
`sample` takes, `takes` which kinds of space it is for, `condition` how a context is asked for, `check` whether options
are right. All are a `GenerativeModel`, of whose every `Ability` one asks, such as that of telling a `Marginal`; those
of one flow are a `FlowModel`, those whose velocity is learned by matching a `MatchingModel`, or a `FlowMapModel` if
they jump, one with jumps of coordinates a `GeneratorModel`, those of tokens a `TarFlow` or a `StarFlow`, that of
symbols a `DiscreteModel` or a `TokenModel`, that of edits an `EditModel`, those that do no more a `ConsistencyModel`
and a `DriftingModel`; an `Autoencoder` has codes, of which a `Latent` model has learned. `load_tarflow` and
`load_starflow` read published weights. `register` adds one: each of its options is an `Option`, and those of its
sampling are fields of its `SamplingOptions`.
"""

from .autoencoder import Autoencoder, autoencoder
from .consistency import ConsistencyModel, consistency
from .diffusion import diffusion
from .discrete_flow import discrete_flow
from .discrete_model import DiscreteModel
from .drifting import DriftingModel, drifting
from .edit_flow import edit_flow
from .edit_model import EditModel
from .ffjord import ffjord
from .flow_matching import flow_matching
from .flow_model import FlowModel
from .generator_matching import GeneratorModel, generator_matching
from .glow import glow
from .iaf import iaf
from .latent import Latent, latent
from .maf import maf
from .matching_model import MatchingModel
from .mean_flow import FlowMapModel, mean_flow
from .model import Ability, GenerativeModel, Marginal, SamplingOptions
from .neural_ode import neural_ode
from .nice import nice
from .nsf import nsf
from .option import Option
from .published import load_starflow, load_tarflow
from .realnvp import realnvp
from .rectified_flow import rectified_flow
from .registry import check, condition, create, defaults, describe, names, options, register, sampling, takes
from .residual_flow import residual_flow
from .starflow import starflow
from .starflow_model import StarFlow
from .tarflow import tarflow
from .tarflow_model import TarFlow
from .token_flow import TokenModel, token_flow

__all__ = [
    "Ability",
    "Autoencoder",
    "ConsistencyModel",
    "DiscreteModel",
    "DriftingModel",
    "EditModel",
    "FlowMapModel",
    "FlowModel",
    "GenerativeModel",
    "GeneratorModel",
    "Latent",
    "Marginal",
    "MatchingModel",
    "Option",
    "SamplingOptions",
    "StarFlow",
    "TarFlow",
    "TokenModel",
    "autoencoder",
    "check",
    "condition",
    "consistency",
    "create",
    "defaults",
    "describe",
    "diffusion",
    "discrete_flow",
    "drifting",
    "edit_flow",
    "ffjord",
    "flow_matching",
    "generator_matching",
    "glow",
    "iaf",
    "latent",
    "load_starflow",
    "load_tarflow",
    "maf",
    "mean_flow",
    "names",
    "neural_ode",
    "nice",
    "nsf",
    "options",
    "realnvp",
    "rectified_flow",
    "register",
    "residual_flow",
    "sampling",
    "starflow",
    "takes",
    "tarflow",
    "token_flow",
]  # fmt: skip
