"""Computing again in the backward pass: with the parameters of the forward pass, and to the same result or not at all.

Between the two passes a module may have got other parameters: `torch.func.functional_call` puts its own in for a call
and takes them out again. So what stands in the modules that a function can reach is noted beforehand and stands there
again while it is computed again.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from .modes import capturing

__all__ = ["Place", "Standing", "computed_again", "holding"]

Place = tuple[dict[str, Any], str]

_MOST = 10_000  # things to look at, the nearest first
_DATA = 1_000  # a longer list holds data, not modules
_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), type, types.ModuleType, torch.dtype})
_TORCHS = frozenset(vars(nn.Module()))  # attributes of a module, its parts and hooks
_LIBRARIES = ("torch", "numpy", "pyflowk")  # whose functions hold no module of a user in a global name


@contextlib.contextmanager
def holding(pairs: Iterable[tuple[Place, Any]]) -> Iterator[None]:
    """Put each tensor, or mode, into its place in a module, for a while."""
    pairs = [((holder, name), tensor) for (holder, name), tensor in pairs if holder.get(name) is not tensor]
    before = [holder.get(name) for (holder, name), _ in pairs]
    try:
        for (holder, name), tensor in pairs:
            holder[name] = tensor
        yield
    finally:
        for ((holder, name), _), other in zip(pairs, before, strict=True):
            holder[name] = other


class Standing:
    """The parameters, buffers and modes that stand, now, in all modules that some functions or modules can reach.

    Reached is what a function has captured or names, what an object has for attributes, and so on. In a `with` block,
    as many as there are, all of it stands there again; `changed` tells whether a parameter has another version since.
    """

    def __init__(self, *roots: Any) -> None:
        self.pairs: list[tuple[Place, Any]] = []
        self._open: list[Any] = []
        modules, tensors = _reached(roots)
        for module in modules:
            holders: tuple[dict[str, Any], ...] = module._parameters, module._buffers
            for holder in holders:
                self.pairs += [((holder, name), tensor) for name, tensor in holder.items() if tensor is not None]
        tensors += [tensor for _, tensor in self.pairs]
        self.pairs += [((vars(module), "training"), module.training) for module in modules]
        # of all others a change may be meant: running statistics, a buffer that a field writes to
        self._versions = [(x, x._version) for x in tensors if x.requires_grad and x.is_leaf and not x.is_inference()]

    @property
    def changed(self) -> bool:
        return any(tensor._version != version for tensor, version in self._versions)

    def __enter__(self) -> None:
        self._open.append(holding(self.pairs))
        self._open[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self._open.pop().__exit__(*error)


def _reached(roots: Iterable[Any]) -> tuple[list[nn.Module], list[Tensor]]:
    """Modules and captured tensors."""
    modules: dict[nn.Module, None] = {}
    tensors: list[Tensor] = []
    seen: set[int] = set()
    queue = deque(roots)
    while queue and len(seen) < _MOST:
        item = queue.popleft()
        if type(item) in _PLAIN or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            tensors.append(item)
        elif isinstance(item, nn.Module):
            for module in item.modules():
                if module not in modules:
                    modules[module] = None
                    seen.add(id(module))
                    queue.extend(value for name, value in vars(module).items() if name not in _TORCHS)
        else:
            queue.extend(_held_by(item))
    return list(modules), tensors


def _held_by(item: Any) -> Iterable[Any]:
    if isinstance(item, (list, tuple, set, frozenset, dict)):
        if len(item) > _DATA:
            return ()
        return list(item.values() if isinstance(item, dict) else item)
    if isinstance(item, types.FunctionType):
        return _captured(item)
    if isinstance(item, types.MethodType):
        return item.__self__, item.__func__
    if isinstance(item, functools.partial):
        return item.func, *item.args, *item.keywords.values()
    call = type(item).__call__ if callable(item) else None
    return *getattr(item, "__dict__", {}).values(), *((call,) if isinstance(call, types.FunctionType) else ())


def _captured(function: types.FunctionType) -> Iterator[Any]:
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a name that has no value yet
            yield cell.cell_contents
    if (function.__module__ or "").split(".")[0] not in _LIBRARIES:
        codes = [function.__code__]
        for code in codes:
            codes += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
            yield from (function.__globals__[name] for name in code.co_names if name in function.__globals__)


def computed_again(
    function: Callable[..., Any], *args: Any, standing: Standing | None, arrival: Callable[[Any], Tensor]
) -> Any:
    """`function(*args)` that keeps nothing in between: the backward pass computes it again, by the same random numbers.

    `standing` is what the function reaches (None under a compiler, which sees to it itself). `arrival` picks a tensor
    out of the results, by which it is seen whether the second computation is the first one again: on the CPU always,
    elsewhere, where it takes waiting, if a parameter has changed. RuntimeError where it is not, as the gradient would
    belong to neither.
    """
    if standing is None:
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    first: list[Tensor] = []

    def run(*args: Any) -> Any:
        result = function(*args)
        reached = arrival(result).detach()
        if not first:
            first.append(reached)
        elif (changed := standing.changed) or reached.device.type == "cpu":
            _check_same(first[0], reached, changed)
        return result

    captured = any(isinstance(x, Tensor) and capturing(x) for x in args)  # a graph can set no generator back
    with set_checkpoint_early_stop(False):
        return checkpoint(
            run, *args, use_reentrant=False, preserve_rng_state=not captured,
            context_fn=lambda: (contextlib.nullcontext(), standing),
        )  # fmt: skip


def _check_same(before: Tensor, now: Tensor, changed: bool) -> None:
    """Up to rounding, which may differ where memory lies differently; hardly at all where something has changed."""
    size = before.nan_to_num(0, 0, 0).abs().max().item() if before.numel() else 0.0
    eps = torch.finfo(before.dtype).eps
    tolerance = 100 * eps if changed else eps**0.5
    if not torch.allclose(now, before, rtol=tolerance, atol=tolerance * size, equal_nan=True):
        why = "a parameter has been changed in place" if changed else (
            "a tensor that it depends on has been changed, or it draws random numbers from a generator of its own"
        )  # fmt: skip
        raise RuntimeError(
            f"the backward pass computed a part again and did not come to the result of the forward pass: {why}; "
            "expected what can be computed again, or adjoint='backprop', which keeps everything"
        )
