"""Ops by Triton, for users with a card and no nvcc, and for AMD cards. Triton itself is imported at the first call.

With TRITON_INTERPRET=1 in the environment they run on the CPU, slowly, for tests.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

__all__ = ["KERNELS", "ask", "unavailable"]

#: op -> the module beside this one, and the function of that, which takes what the op's `csrc/bind` takes.
KERNELS = {
    "affine_coupling": ("affine_coupling", "forward"),
    "affine_coupling_backward": ("affine_coupling", "backward"),
    "hutchinson": ("hutchinson", "estimate"),
    "hutchinson_backward": ("hutchinson", "backward"),
    "random_numbers": ("random_numbers", "draw"),
    "rk_combine": ("rk_step", "combine"),
    "rk_combine_backward": ("rk_step", "combine_backward"),
    "rk_control": ("rk_step", "control"),
    "rk_error": ("rk_step", "error"),
    "rq_spline": ("rq_spline", "forward"),
    "rq_spline_backward": ("rq_spline", "backward"),
}


def unavailable() -> str:
    """Say why these kernels cannot run here, as far as that is known without importing Triton; empty if they may."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if interpreted() or torch.version.cuda is not None or torch.version.hip is not None:
        return ""
    return f"torch {torch.__version__} was built without GPU support"


def ask() -> str:
    """Say the rest of `unavailable`, which takes importing Triton and waking the driver."""
    if reason := unavailable():
        return reason
    if interpreted() or torch.cuda.is_available():
        return ""
    return "torch sees no GPU"


def interpreted() -> bool:
    """Tell whether Triton's own interpreter stands in for a card."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def __getattr__(op: str) -> Callable[..., Any]:
    """Return the kernel of an op. Its module, and Triton with it, is imported at the first call."""
    if op not in KERNELS:
        raise AttributeError(f"there is no Triton kernel of {op}")
    module, function = KERNELS[op]

    def kernel(*args: Any) -> Any:
        return getattr(import_module(f".{module}", __package__), function)(*args)

    return globals().setdefault(op, kernel)
