"""Which transformation is active: compiler, tracer, dispatch mode, functorch, forward-mode AD, autograd, autocast.

Every private torch name that the package needs in a call is bound here and proven by tests/ops/test_modes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop
from torch.autograd import forward_ad

__all__ = [
    "autocasting",
    "capturing",
    "compiling",
    "empty_on_card",
    "empty_on_cpu",
    "exporting",
    "forward_or_functional",
    "functional",
    "functionalizing",
    "grad_enabled",
    "mapped",
    "modes_on_stack",
    "no_tangents",
    "of_no_device",
    "plain_autograd",
    "symbolic",
    "tracing",
    "transformed",
    "unwatched",
    "unwrap",
    "watched",
    "while_loop",
    "wrapped",
]

#: whether vmap, grad, jvp or another functional transformation is active, and whether this very tensor is inside one.
functional: Callable[[], bool] = torch._C._are_functorch_transforms_active
wrapped: Callable[[Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor
_is_mapped: Callable[[Tensor], bool] = torch._C._functorch.is_batchedtensor
_inside: Callable[[Tensor], Tensor] = torch._C._functorch.get_unwrapped

unwrap: Callable[[Tensor], Tensor] = torch._C._functorch.unwrap_if_dead
modes_on_stack: Callable[[], int] = torch._C._len_torch_dispatch_stack
_functorch_stack: Callable[[], list[Any] | None] = torch._C._functorch.get_interpreter_stack
_Functionalize: object = torch._C._functorch.TransformType.Functionalize
#: (sizes, strides, dtype) -> memory of torch's allocator, on the CPU or the current card: half the cost of torch.empty
Allocate = Callable[[Any, Any, torch.dtype], Tensor]
empty_on_cpu: Allocate = torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]
empty_on_card: Allocate = torch._C._dynamo.guards._empty_strided_cuda  # type: ignore[attr-defined]
_below_autograd: Any = torch._C._after_ADInplaceOrView_keyset
_DENSE = (torch._C.DispatchKey.CPU, torch._C.DispatchKey.CUDA)
_OTHER = torch._C.DispatchKeySet(torch._C.DispatchKey.AutogradOther)
compiling: Callable[[], bool] = torch.compiler.is_compiling
exporting: Callable[[], bool] = torch.compiler.is_exporting
grad_enabled: Callable[[], bool] = torch.is_grad_enabled
tracing: Callable[[], object] = torch._C._get_tracing_state


def autocasting(x: Tensor) -> bool:
    """Whether autocast is on where a tensor is; a meta device has none, and torch would raise."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def watched() -> bool:
    """Whether a compiler, a tracer or a dispatch mode watches: there may be no values at all."""
    return bool(compiling() or modes_on_stack() or tracing() is not None)


def transformed() -> bool:
    """Whether one of these, functorch or forward AD is active: values may not be looked at."""
    return watched() or forward_or_functional()


def symbolic() -> bool:
    """Whether values cannot be looked at: under torch.compile and the functional transformations."""
    return bool(torch.compiler.is_compiling() or functional())


def forward_or_functional() -> bool:
    """Whether forward AD or torch.func is active, whose derivatives no `requires_grad` tells of."""
    return bool(functional() or forward_ad._current_level >= 0)


def capturing(tensor: Tensor) -> bool:
    """Whether a CUDA graph is captured where this tensor is: nothing may be read back, nor remembered for later."""
    return not compiling() and tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def unwatched(keys: Any) -> bool:
    """Whether a call that torch brought to an autograd key, with these dispatch keys, has only a kernel before it."""
    return (keys & _below_autograd).highestPriorityTypeId() in _DENSE


def of_no_device(keys: Any) -> Any:
    """The keys of the same call with the autograd key that is no device's: there stands what torch made for all."""
    return keys & _below_autograd | _OTHER


def mapped(tensor: Tensor) -> bool:
    """Whether a vmap maps this tensor, at any level: its values are several, and cannot be asked for."""
    while wrapped(tensor):
        if _is_mapped(tensor):
            return True
        tensor = _inside(tensor)
    return False


def no_tangents() -> AbstractContextManager[None]:
    """What `torch.no_grad` is for forward AD."""
    return forward_ad._set_fwd_grad_enabled(False)


def plain_autograd() -> bool:
    """Whether reverse-mode autograd records and nothing else does: no functorch transform, forward AD or trace."""
    forward = forward_ad._current_level >= 0
    return grad_enabled() and not (compiling() or forward or functional() or tracing() is not None)


def functionalizing() -> bool:
    """Whether torch.func.functionalize is active, at any level."""
    return any(level.key() == _Functionalize for level in _functorch_stack() or ())
