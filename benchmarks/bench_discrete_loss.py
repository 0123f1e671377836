"""The losses of discrete flow matching, value and gradient in the logits, beside flow_matching (if it is there), torch.

`python -m benchmarks --only discrete_loss`. Logits are no leaf; ours writes the gradient over them, which no rival can,
and once more to new memory, as they do. Weights are one a row.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyflowk.ops import discrete_loss

from .report import OURS, Case, ratio_bar
from .timing import Effort

ON_REQUEST = False
EAGER, COMPILED, FLOW_MATCHING, TORCH = "eager", "torch.compile", "flow_matching", "F.cross_entropy"
APART = "ours, a new tensor"
HAS_PEER = importlib.util.find_spec("flow_matching") is not None
#: rows, tokens, symbols; how many times as fast as torch.compile
SIZES = ((64, 64, 17, 8.0), (64, 256, 128, 5.0), (4, 256, 32000, 4.0), (2, 512, 50257, 3.5))


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "ops.discrete_loss, weighted, summed, and its gradient in place of the logits",
        APART: "the same, its gradient a tensor of its own, as those of the rivals",
        EAGER: "log_softmax, gather, exp, where, weighted, summed, and its gradient",
        COMPILED: "the same compiled",
        FLOW_MATCHING: "MixturePathGeneralizedKL, summed, and its gradient",
        TORCH: "F.cross_entropy, weighted, summed, and its gradient",
    }


def _eager(logits: Tensor, x_t: Tensor, x1: Tensor, weight: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    p_t = log_p.gather(-1, x_t[..., None])[..., 0].exp()
    same = (x_t == x1).to(logits.dtype)
    loss = -(p_t - same + (1 - same) * log_p.gather(-1, x1[..., None])[..., 0])
    return (weight[:, None] * loss).sum()


def _peer(x_t: Tensor, x1: Tensor) -> Callable[[Tensor], Tensor]:
    from flow_matching.loss import MixturePathGeneralizedKL
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler

    loss = MixturePathGeneralizedKL(MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0)), reduction="sum")
    t = torch.full(x1.shape[:1], 0.5)
    return lambda logits: loss(logits=logits, x_1=x1, x_t=x_t, t=t)


class _Computed(torch.autograd.Function):
    """Logits as a network gives them, at no cost; a gradient that takes their place is the next call's logits."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, logits: Tensor) -> Tensor:
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


def case(rows: int, places: int, size: int, over_compile: float, kind: str) -> Case:
    """One contest."""
    generator = torch.Generator().manual_seed(0)
    memory, source = torch.randn(rows, places, size, generator=generator), torch.zeros((), requires_grad=True)
    x_t, x1 = (torch.randint(0, size, (rows, places), generator=generator) for _ in range(2))
    weight = torch.full((rows,), 2.0)

    def with_gradient(loss: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        def call() -> object:
            logits = _Computed.apply(source, memory)
            return torch.autograd.grad(loss(logits), logits)

        return call

    def ours(logits: Tensor, in_place: bool) -> Tensor:
        return (weight[:, None] * discrete_loss(logits, x_t, x1, kind=kind, in_place=in_place)).sum()

    def cross_entropy(logits: Tensor) -> Tensor:
        loss = F.cross_entropy(logits.flatten(0, 1), x1.flatten(), reduction="none")
        return (weight[:, None] * loss.reshape(x1.shape)).sum()

    variants = {
        OURS: with_gradient(lambda logits: ours(logits, True)),
        APART: with_gradient(lambda logits: ours(logits, False)),
    }
    if kind == "elbo":
        compiled = torch.compile(_eager)
        variants[EAGER] = with_gradient(lambda logits: _eager(logits, x_t, x1, weight))
        variants[COMPILED] = with_gradient(lambda logits: compiled(logits, x_t, x1, weight))
        bars = [ratio_bar(over_compile, COMPILED)]
        if HAS_PEER:
            variants[FLOW_MATCHING] = with_gradient(_peer(x_t, x1))
            bars.append(ratio_bar(7.0, FLOW_MATCHING))
    else:
        compiled = torch.compile(cross_entropy)
        variants[TORCH] = with_gradient(cross_entropy)
        variants[COMPILED] = with_gradient(compiled)
        bars = [ratio_bar(3.0, TORCH), ratio_bar(over_compile, COMPILED)]
    effort = Effort(rounds=3, batches=1, warmups=1) if size > 1000 else None
    return Case(f"{kind}, {rows} x {places} tokens, K={size}", variants, bars, grad=True, effort=effort)


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for size in SIZES[:1] if quick else SIZES:
        for kind in ("elbo", "cross_entropy"):
            yield case(*size, kind)
