"""A model for serving: a copy whose weights no longer change, packed once."""

from __future__ import annotations

import copy
import functools
from typing import Any, TypeVar

from torch import Tensor, nn

from .ops.kept import Keeper, Kept

__all__ = ["frozen"]

Module = TypeVar("Module", bound=nn.Module)


def frozen(model: Module) -> Module:
    r"""A copy of a model for serving: same type, same results to the last bit, evaluation mode, no parameters.

    A model packs, inverts or normalises its weights once and, on a CPU, compares them at every call with those it did
    that for; where this cannot be done without waiting, on a GPU or in a compiled graph, it packs anew at every call. A
    frozen model never looks again: worth it for calls of few rows, on a GPU, and before ``torch.compile`` or
    ``torch.export``. It may be any module around transforms, networks and systems of this package, or around flows that
    :func:`pyflowk.compat.accelerate` made fast.

    Its parameters are buffers, so that ``parameters()`` is empty, and gradients reach inputs only. Its state dict is
    that of the model, for which it can be loaded; copies and pickles of it are frozen too, and it can be moved to
    another device or dtype. The model itself stays as it was: training it later does not reach the copy. Raises
    RuntimeError from ``train()`` and ``load_state_dict`` of the copy; weights of it that are overwritten by other means
    take no effect. Cost: a copy of the model, and one packing. What looking costs, on a busy machine: of the time of a
    MAF with 7 MB of weights half or more at batch 1, a third at 64, 3 - 6 % at 1024; of a small one 6 - 12 %; of a
    residual flow 5 - 10 % (``python -m benchmarks --only frozen``).

    >>> import torch
    >>> import pyflowk
    >>> from pyflowk import zoo
    >>> model = zoo.create("maf", (3,)).eval()
    >>> served = pyflowk.frozen(model)
    >>> x = torch.randn(5, 3)
    >>> with torch.no_grad():
    ...     torch.equal(served.log_prob(x), model.log_prob(x)), list(served.parameters())
    (True, [])
    """
    result = copy.deepcopy(model).eval()
    known: dict[Tensor, Tensor] = {}
    for module in result.modules():
        for name, parameter in list(module._parameters.items()):
            del module._parameters[name]
            module.register_buffer(name, None if parameter is None else known.setdefault(parameter, parameter.detach()))
        for value in vars(module).values():
            if isinstance(value, Kept):
                value.freeze()
        module.register_load_state_dict_pre_hook(_refuse_weights)
        module.train = functools.partial(_stay, module)  # type: ignore[method-assign]
    for module in result.modules():
        if isinstance(module, Keeper):
            module.keep()
    return result


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    if mode:
        raise RuntimeError("a frozen model stays in evaluation mode: train the model that it was made of")
    return module


def _refuse_weights(module: nn.Module, *_: Any) -> None:
    raise RuntimeError("a frozen model keeps its weights: load into the model that it was made of and freeze it again")
