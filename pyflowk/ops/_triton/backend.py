"""Ops by Triton, for users with a card and no nvcc, and for AMD cards. Triton itself is imported at the first call.

With TRITON_INTERPRET=1 in the environment they run on the CPU, slowly, for tests.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "affine_coupling",
    "affine_coupling_backward",
    "probe",
    "rq_spline",
    "rq_spline_backward",
    "unavailable",
]


def unavailable() -> str:
    """Why these kernels cannot run here, as far as can be told without importing Triton; empty if they may."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if interpreted() or torch.version.cuda is not None or torch.version.hip is not None:
        return ""
    return f"torch {torch.__version__} was built without GPU support"


def probe() -> str:
    """The rest of `unavailable`; imports Triton and wakes the driver."""
    if reason := unavailable():
        return reason
    if interpreted() or torch.cuda.is_available():
        return ""
    return "torch sees no GPU"


def interpreted() -> bool:
    """Whether Triton's own interpreter stands in for a card."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def affine_coupling(
    x: Tensor, params: Tensor, mask: int, bound: int, limit: float, interleaved: bool, inverse: bool,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `csrc/bind/affine_coupling.cpp`."""
    from .affine_coupling import forward

    return forward(x, params, mask, bound, limit, interleaved, inverse, inplace)


def affine_coupling_backward(
    y: Tensor, params: Tensor, dy: Tensor, dladj: Tensor, mask: int, bound: int, limit: float, interleaved: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `csrc/bind/affine_coupling.cpp`."""
    from .affine_coupling import backward

    return backward(y, params, dy, dladj, mask, bound, limit, interleaved, inverse)


def hutchinson(images: Tensor, keys: Tensor, noise: int) -> tuple[Tensor, Tensor]:
    """As `csrc/bind/hutchinson.cpp`."""
    from .hutchinson import estimate

    return estimate(images, keys, noise)


def hutchinson_backward(
    images: Tensor, keys: Tensor, ddivergence: Tensor, dsquare: Tensor, noise: int
) -> tuple[Tensor, ...]:
    """As `csrc/bind/hutchinson.cpp`."""
    from .hutchinson import backward

    return backward(images, keys, ddivergence, dsquare, noise)


def hutchinson_directions(keys: Tensor, count: int, size: int, noise: int, wide: bool) -> tuple[Tensor]:
    """As `csrc/bind/hutchinson.cpp`."""
    from .hutchinson import directions

    return directions(keys, count, size, noise, wide)


def rq_spline(
    x: Tensor, params: Tensor, mask: int, bins: int, tails: int, low: float, high: float, min_width: float,
    min_height: float, min_slope: float, softclip: float, interleaved: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `csrc/bind/rq_spline.cpp`."""
    from .rq_spline import forward

    return forward(
        x, params, mask, bins, tails, low, high, min_width, min_height, min_slope, softclip, interleaved, inverse
    )  # fmt: skip


def rq_spline_backward(
    x: Tensor, y: Tensor, params: Tensor, dy: Tensor, dladj: Tensor, mask: int, bins: int, tails: int, low: float,
    high: float, min_width: float, min_height: float, min_slope: float, softclip: float, interleaved: bool,
    inverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `csrc/bind/rq_spline.cpp`."""
    from .rq_spline import backward

    return backward(
        x,
        y,
        params,
        dy,
        dladj,
        mask,
        bins,
        tails,
        low,
        high,
        min_width,
        min_height,
        min_slope,
        softclip,
        interleaved,
        inverse,
    )


def rk_combine(*args: Any) -> tuple[Tensor, ...]:
    """As `csrc/bind/rk_step.cpp`."""
    from .rk_step import combine

    return combine(*args)


def rk_combine_backward(*args: Any) -> tuple[Any, ...]:
    """As `csrc/bind/rk_step.cpp`."""
    from .rk_step import combine_backward

    return combine_backward(*args)


def rk_error(*args: Any) -> tuple[Tensor, ...]:
    """As `csrc/bind/rk_step.cpp`."""
    from .rk_step import error

    return error(*args)


def rk_control(*args: Any) -> tuple[Tensor, ...]:
    """As `csrc/bind/rk_step.cpp`."""
    from .rk_step import control

    return control(*args)
