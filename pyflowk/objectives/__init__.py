"""Training objectives, one file each: a loss per sample first, reduced on request.

`nll`, the negative log-likelihood; `rnode` adds regularisers of continuous flows. For
densities known up to a constant: `reverse_kl`, `forward_kl`, `importance_sample`, whose weights `effective_sample_size`
and `log_evidence` judge. `reduce` takes the mean or the sum.
"""

from .nll import nll, reduce
from .rnode import rnode
from .variational import effective_sample_size, forward_kl, importance_sample, log_evidence, reverse_kl

__all__ = [
    "effective_sample_size",
    "forward_kl",
    "importance_sample",
    "log_evidence",
    "nll",
    "reduce",
    "reverse_kl",
    "rnode",
]
