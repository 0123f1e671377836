"""Compiled kernels for normalizing flows and flow matching in PyTorch, and the models that stand on them."""

from . import _native, ops
from ._frozen import frozen
from ._native import show_config
from .ops._backends import backend

__version__ = "0.1.0"
__all__ = ["backend", "frozen", "ops", "show_config"]

_native.register()
