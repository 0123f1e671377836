"""What came, in the words of an error message."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["described", "require_kind"]


def described(x: Any) -> str:
    """Name the kind of a thing, with shape and dtype where it has them.

    >>> import torch
    >>> described((torch.zeros(2, 3), 1.0))
    'a tuple of (a tensor (2, 3), torch.float32; a float)'
    """
    if isinstance(x, (tuple, list)):
        shown = "; ".join(map(described, x[:4])) + ("; ..." if len(x) > 4 else "")
        return f"a {type(x).__name__} of ({shown})"
    name = "tensor" if isinstance(x, Tensor) else type(x).__name__
    if isinstance(x, Tensor) or name == "ndarray":
        return f"a {'numpy array' if name == 'ndarray' else name} {tuple(x.shape)}, {x.dtype}"
    return "None" if x is None else f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"


def require_data(name: str, value: Tensor) -> None:
    """TypeError for a tensor without values, on the meta device.

    >>> import torch
    >>> require_data("x", torch.zeros(2, device="meta"))
    Traceback (most recent call last):
    TypeError: x: expected a tensor with values, got a tensor (2,), torch.float32 on the meta device
    """
    if value.is_meta:
        raise TypeError(f"{name}: expected a tensor with values, got {described(value)} on the meta device")


def require_kind(name: str, value: object, kind: Any, expected: str) -> None:
    """TypeError unless a value is an object of a kind (``Callable`` among them), and no class of such objects.

    >>> require_kind("schedule", int, int, "a number")
    Traceback (most recent call last):
    TypeError: schedule: expected a number, got the class int itself: say int()
    """
    if isinstance(value, type):
        raise TypeError(f"{name}: expected {expected}, got the class {value.__name__} itself: say {value.__name__}()")
    if not isinstance(value, kind):
        got = repr(value) if isinstance(value, (str, float, int)) else described(value)
        raise TypeError(f"{name}: expected {expected}, got {got}")
