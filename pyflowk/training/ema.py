"""Exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    """Average w' <- d w' + (1 - d) w with d = min(decay, (1 + n) / (10 + n)) after n updates; buffers are copied.

    The rising decay forgets the first steps of a short run. `module` is a copy of the model in evaluation mode.
    `torch.optim.swa_utils.AveragedModel` walks the modules at each update, a fifth of a small flow's training step;
    here the tensors are collected once, so they must not be replaced afterwards. Cost of an update: one pass over the
    weights.

    >>> import torch
    >>> from pyflowk.training.ema import MovingAverage
    >>> model = torch.nn.Linear(1, 1)
    >>> average = MovingAverage(model, 0.99)
    >>> torch.nn.init.constant_(model.weight, 3.0).item()
    3.0
    >>> average.update()
    >>> average.module.weight.item()  # the first update copies
    3.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module, self.decay, self.updates = copy.deepcopy(model).eval().requires_grad_(False), decay, 0
        self._weights: list[Tensor] = list(self.module.parameters())
        self._weights_now: list[Tensor] = list(model.parameters())
        self._buffers, self._buffers_now = list(self.module.buffers()), list(model.buffers())

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's present weights."""
        n = self.updates
        if n == 0:
            torch._foreach_copy_(self._weights, self._weights_now)
        else:
            torch._foreach_lerp_(self._weights, self._weights_now, 1.0 - min(self.decay, (1 + n) / (10 + n)))
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._buffers_now)
        self.updates += 1
