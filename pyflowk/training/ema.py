"""Exponential moving average of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Average w' <- d w' + (1 - d) w with d = min(decay, (1 + n) / (10 + n)) after n updates; buffers are copied.

    The rising decay forgets the first steps of a short run. Call `.update_parameters(model)` after each step.

    >>> import torch
    >>> from pyflowk.training.ema import average_of
    >>> model = torch.nn.Linear(1, 1)
    >>> average = average_of(model, 0.99)
    >>> average.update_parameters(model)
    >>> bool(average.module.weight == model.weight)
    True
    """

    def blend(average: list[Tensor], current: list[Tensor], count: Any) -> None:
        n = int(count)
        torch._foreach_lerp_(average, current, 1.0 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(model, multi_avg_fn=blend)  # type: ignore[arg-type]
