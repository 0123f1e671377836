"""Where did the first non-finite number come from? Asked only after a step has failed: the batch is run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is not finite; the message names the step, the learning rate and the first layer."""


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _bad(value: Any) -> bool:
    return any(not bool(t.isfinite().all()) for t in _tensors(value) if t.is_floating_point())


def first_nonfinite(model: nn.Module, loss: Callable[[], Tensor], batch: Tensor) -> str:
    """Run `loss() -> (B,)` and its gradient once more and say where the first NaN or infinity appears.

    Looks, in this order, at the batch, the parameters, the output of each module in the order of computation, and the
    gradient at each module's output in the order of the backward pass. Cost: one training step, one check per module.

    >>> import torch
    >>> from pyflowk.training.nonfinite import first_nonfinite
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU())
    >>> x = torch.tensor([[float("inf")]])
    >>> first_nonfinite(net, lambda: net(x), x)
    'the batch itself'
    """
    if _bad(batch):
        return "the batch itself"
    for name, parameter in model.named_parameters():
        if _bad(parameter):
            return f"parameter {name}"
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if _bad(output):
                found.append(f"the output of layer {name} ({type(module).__name__})")
            for t in _tensors(output):
                if t.requires_grad:
                    t.register_hook(
                        lambda grad: found.append(f"the gradient at the output of layer {name}") if _bad(grad) else None
                    )

        return look

    hooks = [m.register_forward_hook(watch(name or "(model)")) for name, m in model.named_modules()]
    try:
        with torch.enable_grad():
            value = loss()
            if not found and not _bad(value):
                torch.autograd.grad(value.mean(), [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "the loss itself, after the last layer"
