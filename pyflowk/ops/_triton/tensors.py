"""What every Triton op does with tensors: rows, types, gradients that do not fit, the launch itself."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["accumulator", "dense_rows", "launch", "require_gradients", "row_stride"]


def launch(kernel: Any, like: Tensor, walks: int, tile: dict[str, Any], *args: Any, **options: Any) -> None:
    grid = (triton.cdiv(like.shape[0], tile["ROWS"]), walks)
    if like.is_cuda:
        with torch.cuda.device(like.device):
            kernel[grid](*args, **options, **tile, num_warps=4, enable_fp_fusion=True)
    else:
        kernel[grid](*args, **options, **tile)


def dense_rows(t: Tensor) -> Tensor:
    """t itself if only its rows are strided, else a copy."""
    return t if t.numel() == 0 or t[0].is_contiguous() else t.contiguous()


def row_stride(t: Tensor) -> int:
    return t.stride(0) if t.shape[0] > 1 else t[0].numel() if t.shape[0] else 0


def accumulator(x: Tensor) -> tuple[torch.dtype, Any]:
    return (torch.float64, tl.float64) if x.dtype == torch.float64 else (torch.float32, tl.float32)


def require_gradients(op: str, like: Tensor, dy: Tensor, dladj: Tensor) -> None:
    """ValueError unless dy fits the state `like`, and dladj its rows."""
    wanted = (("dy", dy, like.shape, like.dtype), ("dladj", dladj, like.shape[:1], accumulator(like)[0]))
    for name, tensor, shape, dtype in wanted:
        if tensor.shape != shape or tensor.dtype != dtype or tensor.device != like.device:
            raise ValueError(
                f"{op}: {name} must be {tuple(shape)}, {dtype}, on {like.device}; "
                f"got {tuple(tensor.shape)}, {tensor.dtype}, on {tensor.device}"
            )
