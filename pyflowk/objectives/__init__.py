"""Training objectives, one file each: a loss per sample first, reduced on request."""

from .nll import bits_per_dim, nll, reduce
from .rnode import rnode

__all__ = ["bits_per_dim", "nll", "reduce", "rnode"]
