"""Maximum likelihood for continuous flows whose paths are kept short and straight."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ..transforms.base import Transform
from ..transforms.continuous import observed
from .nll import Density, reduce

__all__ = ["rnode"]


class OfTransform(Density, Protocol):
    """A density by a change of variables, such as a :class:`pyflowk.flows.Flow`."""

    transform: Transform


def rnode(
    flow: OfTransform,
    x: Tensor,
    context: Tensor | None = None,
    *,
    kinetic: float = 0.01,
    jacobian: float = 0.01,
    per_dim: bool = True,
    generator: torch.Generator | None = None,
    reduction: str = "none",
) -> Tensor:
    r"""The negative log-likelihood with the regularisers of RNODE:
    :math:`-\log p(x) / D + \lambda_K \int |f|^2 dt + \lambda_J \int |\partial f / \partial x|_F^2 dt`.

    The flow's transform is or holds a :class:`pyflowk.transforms.Continuous`, whose integrals come from the pass that
    gives the density, the norm by the same probes where the divergence is estimated. x is (B, \*event); D its elements,
    and 1 with ``per_dim=False``: published codes differ. The result is (B,), nats per dimension (per event), or its
    mean or sum.

    Raises ValueError for a flow without a Continuous. Cost: one ``log_prob``. Finlay, Jacobsen, Nurbekyan, Oberman,
    2020, arXiv:2002.02798.

    >>> import torch
    >>> from pyflowk.distributions import DiagonalGaussian
    >>> from pyflowk.flows import Flow
    >>> from pyflowk.objectives import rnode
    >>> from pyflowk.solvers import Fixed
    >>> from pyflowk.transforms import Continuous
    >>> flow = Flow(DiagonalGaussian((2,)), Continuous(lambda t, x: x, method="rk4", stepping=Fixed(20)))
    >>> rnode(flow, torch.zeros(1, 2), kinetic=1.0, jacobian=1.0)  # (log 2 pi + 2) / 2 + 0 + 2
    tensor([3.9189])
    """
    with observed(flow.transform) as solves:
        log_prob = flow.log_prob(x, context, generator)
    if not solves:
        raise ValueError(f"rnode expects a flow with a Continuous transform; {type(flow.transform).__name__} ran none")
    dims = math.prod(x.shape[1:]) if per_dim else 1
    cost = sum(kinetic * solve.kinetic + jacobian * solve.jacobian for solve in solves)
    return reduce(-log_prob / dims + cost, reduction)
