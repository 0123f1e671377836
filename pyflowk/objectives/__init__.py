"""Training objectives, one file each: a loss per sample first, reduced on request."""

from .nll import bits_per_dim, nll, reduce

__all__ = ["bits_per_dim", "nll", "reduce"]
