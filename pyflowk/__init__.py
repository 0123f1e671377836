"""Compiled kernels for normalizing flows and flow matching in PyTorch, and the models that stand on them.

Here: `ops`, the fused operations; `backend` forces one implementation of them; `frozen` makes a copy of a model for
serving; `show_config` tells what was built. To be imported: `pyflowk.zoo`, published systems by name; `pyflowk.flows`,
a base and a transform; `pyflowk.distributions`, `transforms`, `nets`, `solvers` and `objectives`, what they are made
of; `pyflowk.space` and `shapes`, what an event is and whose context is whose, `manifolds`, what it may lie on;
`pyflowk.metrics`, how good samples are; `pyflowk.datasets`; `pyflowk.training`; `pyflowk.compat`, other packages'
faces; `pyflowk.selfcheck`. The command line is `python -m pyflowk`.
"""

from . import _native, ops
from ._frozen import frozen
from ._native import show_config
from .ops._backends import backend

__version__ = "0.1.0"
__all__ = ["backend", "frozen", "ops", "show_config"]

_native.register()
