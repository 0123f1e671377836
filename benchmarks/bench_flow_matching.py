"""A training step of flow matching beside the same network and Adam alone: what draws, path and loss add to it.

`python -m benchmarks --only flow_matching`. All train a perceptron of the same width on 2-D data. The bare step has its
times, x_t and targets ready, always the same ones, and ends in one mean of squares. On a machine that others use too
what is added costs more than alone: between two steps all code and memory of it leave the caches.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyflowk import zoo
from pyflowk.nets import Field, MLPField
from pyflowk.objectives import Matching

from .report import OURS, Bar, Case
from .timing import Effort

ON_REQUEST = False
SIZES = {(256, 64): 1.1, (512, 64): 1.1, (256, 512): 1.02}
"""Rows and width, and how much longer than the bare step ours may take."""
ZOO, BARE, TORCHCFM = f"{OURS}, zoo", "bare step", "torchcfm"
HAS_PEER = all(importlib.util.find_spec(name) for name in ("torchcfm", "ot"))


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "objectives.Matching of the network, its gradient, Adam",
        ZOO: "loss of zoo.flow_matching: checks, scale and Matching; its gradient, Adam",
        BARE: "the network, mse_loss to a ready target, its gradient, Adam",
        TORCHCFM: "torch.randn, ConditionalFlowMatcher, the network, a mean of squares, its gradient, Adam",
    }


def step(parameters: Iterator[nn.Parameter], loss: Callable[[], Tensor]) -> Callable[[], object]:
    """One step of Adam on a loss."""
    optimizer = torch.optim.Adam(parameters, 1e-3)

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return run


def _peer(net: Field, x: Tensor) -> Callable[[], Tensor]:
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    matcher = ConditionalFlowMatcher(sigma=0.0)

    def loss() -> Tensor:
        t, x_t, target = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
        return (net(t, x_t) - target).square().mean()

    return loss


def case(rows: int, width: int, limit: float, effort: Effort | None = None) -> Case:
    """One contest."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x, x_t, target = (torch.randn(rows, 2, generator=generator) for _ in range(3))
    t = torch.rand(rows, generator=generator)
    model, matching = zoo.flow_matching((2,), width=width), Matching()
    model.initialize(x)
    nets = [MLPField(2, width, 3, "silu", "concat") for _ in range(3)]
    variants = {
        OURS: step(nets[0].parameters(), lambda: matching(nets[0], x, generator=generator, reduction="mean")),
        ZOO: step(model.parameters(), lambda: model.loss(x, generator=generator).mean()),
        BARE: step(nets[1].parameters(), lambda: F.mse_loss(nets[1](t, x_t), target)),
    }
    if HAS_PEER:
        variants[TORCHCFM] = step(nets[2].parameters(), _peer(nets[2], x))
    bars = [
        Bar(f"{ours}: <= {limit:g}x {BARE}", limit, lambda s, ours=ours: s[ours] / s[BARE], limit=True)
        for ours in (OURS, ZOO)
    ]
    return Case(f"{rows} rows, width {width}", variants, bars, grad=True, effort=effort)


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for (rows, width), limit in [*SIZES.items()][:1] if quick else SIZES.items():
        yield case(rows, width, limit, None if quick else Effort(rounds=41, batches=3))
