"""Geodesic paths: the shortest way from noise to data on a manifold."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..manifolds import Manifold
from ..ops.dtypes import state_dtype
from .base import Path, PathSample
from .schedules import CondOT, Schedule


class GeodesicPath(Path):
    r"""The path :math:`x_t = \exp_{x_0}(\kappa_t \log_{x_0} x_1)` on a manifold: geodesics from noise to data.

    :math:`\kappa_t` is the share of data :math:`\alpha_t` of a :class:`Schedule` (:class:`CondOT`, constant speed, if
    none is given), which must grow from 0 to 1. The target is the derivative :math:`\kappa'_t\,\dot\gamma(\kappa_t)`
    along the geodesic :math:`\gamma`: it equals :math:`\kappa'_t / (1 - \kappa_t)\,\log_{x_t} x_1`, and is finite at
    t = 1, too. All weigh 1. x0 and x1 must be points of the manifold; half precision is computed in float32. Raises
    TypeError for no manifold, ValueError for a schedule that does not lead from 0 to 1. Cost: a logarithm and a
    geodesic. Chen and Lipman, 2024, arXiv:2302.03660.

    >>> import torch
    >>> from pyflowk.manifolds import Torus
    >>> from pyflowk.paths import GeodesicPath
    >>> GeodesicPath(Torus((1,))).sample(torch.tensor([[3.0]]), torch.tensor([[-3.0]]), 0.25)[:3]
    (tensor([[3.0708]]), tensor([0.2500]), tensor([[0.2832]]))
    """

    def __init__(self, manifold: Manifold, schedule: Schedule | None = None) -> None:
        if not isinstance(manifold, Manifold):
            raise TypeError(f"GeodesicPath expects a manifold of pyflowk.manifolds, got {manifold!r}")
        self.manifold, self.schedule = manifold, CondOT() if schedule is None else schedule
        ends = self.schedule.at(torch.tensor([0.0, 1.0], device="cpu")).alpha.tolist()
        if ends != [0, 1]:
            raise ValueError(f"schedule: expected a share of data from 0 to 1, got {ends[0]:g} to {ends[1]:g}")

    def _sample(self, x0: Tensor, x1: Tensor, t: Tensor, generator: Generator | None) -> PathSample:
        x0, x1 = x0.to(state_dtype(x1)), x1.to(state_dtype(x1))
        share, _, rate, _ = self.schedule.at(t).beside(x1)
        x_t, velocity = self.manifold.travel(x0, self.manifold.log(x0, x1), share)
        return PathSample(x_t, t, rate * velocity)

    def __repr__(self) -> str:
        return f"GeodesicPath({self.manifold}, {self.schedule})"
