"""Exponential moving average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .parts import inside, submodule


class MovingAverage:
    """Average w' <- d w' + (1 - d) w with d = min(decay, (1 + n) / (10 + n)) after n updates.

    `module` is a copy of the model in evaluation mode. Floating-point parameters are averaged; buffers and integers,
    such as index tables, are copied, and so are the parts named in `copied`, which follow the model by a law of their
    own. Those named in `shared` never change, and are the model's. The rising decay forgets the first steps of a short
    run. `torch.optim.swa_utils.AveragedModel` walks the modules at each update, a fifth of a small flow's training
    step, and with use_buffers averages indices too; here the tensors are collected once, so they must not be replaced
    afterwards. Cost of an update: one pass over the weights.

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

    def __init__(self, model: nn.Module, decay: float, copied: Sequence[str] = (), shared: Sequence[str] = ()) -> None:
        parts = [submodule(model, name) for name in shared]
        self.module = copy.deepcopy(model, {id(part): part for part in parts}).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0
        pairs: dict[bool, list[tuple[Tensor, Tensor]]] = {True: [], False: []}
        for named in (nn.Module.named_parameters, nn.Module.named_buffers):
            for (name, mine), (_, now) in zip(named(self.module), named(model), strict=True):
                floats = isinstance(now, nn.Parameter) and (now.is_floating_point() or now.is_complex())
                if not inside(name, shared):
                    pairs[floats and not inside(name, copied)].append((mine, now))
        self._averaged, self._averaged_now = ([pair[i] for pair in pairs[True]] for i in (0, 1))
        self._copied, self._copied_now = ([pair[i] for pair in pairs[False]] for i in (0, 1))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's present weights."""
        n = self.updates
        if n == 0:
            torch._foreach_copy_(self._averaged, self._averaged_now)
        else:
            torch._foreach_lerp_(self._averaged, self._averaged_now, 1.0 - min(self.decay, (1 + n) / (10 + n)))
        if self._copied:
            torch._foreach_copy_(self._copied, self._copied_now)
        self.updates += 1
