"""Attention alone: values, values with a tangent, and the gradients of both.

Self-attention of (B, heads, T, d) in float32, queries, keys and values all moving. `python -m benchmarks --only
attention` judges the bars; pytest gives the same calls to pytest-benchmark. Products bound the kernel: beside a BLAS
that reaches the processor's peak it gains by what it does not write to memory, and by the exponentials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyflowk.ops import attention, attention_with_tangents

from .report import OURS, Bar, Case, hand_over, ratio_bar

ON_REQUEST = False
SHAPES = {"16x4x64x32": (16, 4, 64, 32), "8x6x256x64": (8, 6, 256, 64), "4x8x1024x64": (4, 8, 1024, 64)}
TASKS = ("value", "with a tangent", "value, backward", "with a tangent, backward")
MATH, FLASH, JVP, FORMULA, TWICE = "math", "flash", "torch.func.jvp", "torch.compile, by hand", "flash, twice"


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        MATH: "softmax(q k^T / sqrt d) v, eager",
        FLASH: "F.scaled_dot_product_attention",
        JVP: "of the eager form; backward through the value and the tangent",
        FORMULA: "of the derivative written out: (P (dS - rowsum(P dS))) v + P dv",
        TWICE: "two evaluations, as a finite difference takes them",
    }


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The usual form."""
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v


def pushed(q: Tensor, k: Tensor, v: Tensor, *tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Its tangent by forward-mode AD."""
    return torch.func.jvp(plain, (q, k, v), tangents)


def by_hand(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
    """Its tangent written out."""
    scale = q.shape[-1] ** -0.5
    shares = torch.softmax(q @ k.mT * scale, -1)
    weighted = shares * (dq @ k.mT + q @ dk.mT) * scale
    return shares @ v, (weighted - shares * weighted.sum(-1, keepdim=True)) @ v + shares @ dv


def ours(q: Tensor, k: Tensor, v: Tensor, *tangents: Tensor) -> tuple[Tensor, Tensor]:
    """One call with a tangent."""
    y, dy = attention_with_tangents(q, k, v, *(t.unsqueeze(1) for t in tangents))
    return y, dy.squeeze(1)


def twice(q: Tensor, k: Tensor, v: Tensor, *tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Two values; the points and their difference come free."""
    return F.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(*tangents)


def with_gradient(f: Callable[..., Any], inputs: list[Tensor], cotangents: list[Tensor]) -> Callable[[], object]:
    """Forward and backward for given gradients of all outputs."""
    leaves = [t.clone().requires_grad_() for t in inputs]

    def run() -> object:
        found = f(*leaves)
        return torch.autograd.grad(found, leaves, cotangents)

    return run


def case(task: str, size: str) -> Case:
    """One contest."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, dq, dk, dv, gy, gdy = (torch.randn(SHAPES[size], generator=generator) for _ in range(8))
    values, tangents = [q, k, v], [dq, dk, dv]
    bars: list[Bar]
    if not task.startswith("with"):
        named: dict[str, Callable[..., Any]] = {OURS: attention, MATH: plain, FLASH: F.scaled_dot_product_attention}
        inputs, cotangents = values, [gy]
        bars = [ratio_bar(1.8, MATH), ratio_bar(1.8, FLASH)] if "backward" in task else []
    else:
        named = {OURS: ours, JVP: pushed, FORMULA: torch.compile(by_hand, dynamic=False)}
        inputs, cotangents = values + tangents, [gy, gdy]
        bars = [ratio_bar(4.0, JVP), ratio_bar(2.5, FORMULA), ratio_bar(1.6, TWICE)]
        if "backward" in task:
            bars = [ratio_bar(2.2, FORMULA)]
        else:
            named[TWICE] = twice
    backward = "backward" in task
    variants = {
        name: with_gradient(f, inputs, cotangents) if backward else lambda f=f: f(*inputs) for name, f in named.items()
    }
    return Case(f"{task}, {size}", variants, bars, grad=backward)


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for task in TASKS[:1] if quick else TASKS:
        for size in [*SHAPES][:1] if quick else SHAPES:
            yield case(task, size)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("variant", (OURS, MATH, FLASH, JVP, FORMULA, TWICE))
def test_attention(benchmark: Any, task: str, size: str, variant: str) -> None:
    hand_over(case(task, size), variant, benchmark)
