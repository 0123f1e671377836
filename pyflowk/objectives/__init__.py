"""Training objectives, one file each: a loss per sample first, reduced on request."""

from .nll import bits_per_dim, nll, reduce
from .rnode import rnode
from .variational import effective_sample_size, forward_kl, importance_sample, log_evidence, reverse_kl

__all__ = [
    "bits_per_dim",
    "effective_sample_size",
    "forward_kl",
    "importance_sample",
    "log_evidence",
    "nll",
    "reduce",
    "reverse_kl",
    "rnode",
]
