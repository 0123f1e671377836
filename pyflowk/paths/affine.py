"""Affine paths: a share of the data and a share of the noise."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..ops.dtypes import state_dtype
from .base import Path, PathSample
from .schedules import CondOT, Schedule


class AffinePath(Path):
    r"""The path :math:`x_t = \alpha_t x_1 + \sigma_t x_0` of a :class:`Schedule`, :class:`CondOT` if none is given.

    Its target is :math:`\alpha'_t x_1 + \sigma'_t x_0` and its weight 1. From normal noise it passes through Gaussians
    :math:`N(\alpha_t x_1, \sigma_t^2 I)` around each event. Half precision is computed in float32. Cost: two passes
    over the event. Lipman et al., 2023, arXiv:2210.02747; Albergo and Vanden-Eijnden, 2023, arXiv:2209.15571.

    >>> import torch
    >>> from pyflowk.paths import AffinePath
    >>> path = AffinePath()
    >>> path.sample(torch.zeros(1, 2), torch.ones(1, 2), 0.25)[:3]
    (tensor([[0.2500, 0.2500]]), tensor([0.2500]), tensor([[1., 1.]]))
    """

    def __init__(self, schedule: Schedule | None = None) -> None:
        self.schedule = CondOT() if schedule is None else schedule

    def _sample(self, x0: Tensor, x1: Tensor, t: Tensor, generator: Generator | None) -> PathSample:
        x0, x1 = x0.to(state_dtype(x1)), x1.to(state_dtype(x1))
        alpha, sigma, alpha_rate, sigma_rate = self.schedule.at(t).beside(x1)
        return PathSample(alpha * x1 + sigma * x0, t, alpha_rate * x1 + sigma_rate * x0, torch.ones_like(t))

    def __repr__(self) -> str:
        return f"AffinePath({self.schedule})"
