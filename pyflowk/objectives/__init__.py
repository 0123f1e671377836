"""Training objectives, one file each: a loss per sample first, reduced on request.

`nll` is the negative log-likelihood, and `rnode` adds the regularisers of continuous flows to it. `Matching`,
conditional flow matching, teaches a field velocity, noise, data or score. Densities known up to a constant have
`reverse_kl`, `forward_kl` and `importance_sample`, whose weights `effective_sample_size` and `log_evidence` judge.
`reduce` takes the mean or the sum.
"""

from .matching import Matching
from .nll import nll, reduce
from .rnode import rnode
from .variational import effective_sample_size, forward_kl, importance_sample, log_evidence, reverse_kl

__all__ = [
    "Matching",
    "effective_sample_size",
    "forward_kl",
    "importance_sample",
    "log_evidence",
    "nll",
    "reduce",
    "reverse_kl",
    "rnode",
]
