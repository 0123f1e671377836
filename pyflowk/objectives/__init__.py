"""Training objectives, one file each: a loss per sample first, reduced on request.

`nll` is the negative log-likelihood, and `rnode` adds the regularisers of continuous flows to it. `Matching`,
conditional flow matching, teaches a field velocity, noise, data or score; those with a name are `target_fm`, `i_cfm`,
`ot_cfm`, `sb_cfm`, `vp_cfm`, `rectified_flow` and `data_matching`, `score_matching` and `edm_matching` of diffusions,
`SF2M` teaches two fields the velocity and the score of a bridge, `DiscreteMatching` one which symbols lie under noise,
`SimplexMatching` one whose symbols are corners of a simplex,
`EditMatching` one the edits that make data, and `GeneratorMatching` drift and jumps, by `bregman`, one of the
`DIVERGENCES`. `FlowMapMatching` teaches the average velocity of a flow map, with the settings of `FLOW_MAPS`,
`ConsistencyMatching` where a trajectory ends. By `Drifting` what a network makes in one evaluation follows forces.
`elbo` bounds the likelihood of an autoencoder. Densities known up to a constant have `reverse_kl`, `forward_kl` and
`importance_sample`, whose weights `effective_sample_size` and `log_evidence` judge. `reduce` takes the mean or the sum.
"""

from .consistency import ConsistencyMatching
from .discrete import DiscreteMatching
from .drifting import Drifting
from .edit import EditMatching
from .elbo import elbo
from .flow_map import FLOW_MAPS, FlowMapMatching
from .generator import DIVERGENCES, GeneratorMatching, bregman
from .matching import Matching
from .nll import nll, reduce
from .presets import data_matching, i_cfm, ot_cfm, rectified_flow, sb_cfm, target_fm, vp_cfm
from .rnode import rnode
from .score import edm_matching, score_matching
from .sf2m import SF2M
from .simplex import SimplexMatching
from .variational import effective_sample_size, forward_kl, importance_sample, log_evidence, reverse_kl

__all__ = [
    "DIVERGENCES",
    "FLOW_MAPS",
    "SF2M",
    "ConsistencyMatching",
    "DiscreteMatching",
    "Drifting",
    "EditMatching",
    "FlowMapMatching",
    "GeneratorMatching",
    "Matching",
    "SimplexMatching",
    "bregman",
    "data_matching",
    "edm_matching",
    "effective_sample_size",
    "elbo",
    "forward_kl",
    "i_cfm",
    "importance_sample",
    "log_evidence",
    "nll",
    "ot_cfm",
    "rectified_flow",
    "reduce",
    "reverse_kl",
    "rnode",
    "sb_cfm",
    "score_matching",
    "target_fm",
    "vp_cfm",
]
