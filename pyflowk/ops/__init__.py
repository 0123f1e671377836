"""Fused operations: one file each, with its plain-torch formula, the kernels behind it and its derivatives."""

from ._router import registry
from .affine_coupling import additive_coupling, affine_coupling, affine_coupling_from_output
from .rk_step import rk_combine, rk_error

__all__ = [
    "additive_coupling",
    "affine_coupling",
    "affine_coupling_from_output",
    "registry",
    "rk_combine",
    "rk_error",
]
