"""What came, in the words of an error message."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["described"]


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
