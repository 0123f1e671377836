"""Affine paths: a share of the data and a share of the noise."""

from __future__ import annotations

from torch import Generator, Tensor

from ..ops.dtypes import state_dtype
from ..ops.path_sample import path_sample
from .base import Path, PathSample, checked_times
from .schedules import CondOT, Schedule, require_schedule


class AffinePath(Path):
    r"""The path :math:`x_t = \alpha_t x_1 + \sigma_t x_0` of a :class:`Schedule`, :class:`CondOT` if none is given.

    Its target is :math:`\alpha'_t x_1 + \sigma'_t x_0` and all weigh 1. From normal noise it passes through Gaussians
    :math:`N(\alpha_t x_1, \sigma_t^2 I)` around each event. Half precision is computed in float32. Cost: one pass
    over the event. Lipman et al., 2023, arXiv:2210.02747; Albergo and Vanden-Eijnden, 2023, arXiv:2209.15571.

    >>> import torch
    >>> from pyflowk.paths import AffinePath
    >>> path = AffinePath()
    >>> path.sample(torch.zeros(1, 2), torch.ones(1, 2), 0.25)[:3]
    (tensor([[0.2500, 0.2500]]), tensor([0.2500]), tensor([[1., 1.]]))
    """

    def __init__(self, schedule: Schedule | None = None) -> None:
        self.schedule = CondOT() if schedule is None else schedule
        require_schedule(self.schedule)

    def _sample(self, x0: Tensor, x1: Tensor, t: Tensor, generator: Generator | None) -> PathSample:
        return self._mixed(x1, t, x0=x0.to(state_dtype(x1)))

    def sample_noise(
        self, keys: Tensor, x1: Tensor, t: Tensor | float, generator: Generator | None = None
    ) -> PathSample:
        if type(self)._sample is not AffinePath._sample:  # a subclass that mixes in a way of its own
            return super().sample_noise(keys, x1, t, generator)
        return self._mixed(x1, checked_times(x1, x1, t), keys=keys)

    def _mixed(self, x1: Tensor, t: Tensor, **noise: Tensor) -> PathSample:
        x1, coefficients = x1.to(state_dtype(x1)), self.schedule.at(t)
        x_t, target = path_sample(x1, [c if c.dim() else c.expand(len(t)) for c in coefficients], **noise)
        return PathSample(x_t, t, target)

    def __repr__(self) -> str:
        return f"AffinePath({self.schedule})"
