"""The conditioner of a coupling as one call: narrow MLPs of two hidden layers, without and with gradients.

`python -m benchmarks --only mlp`. GEMM is most of it, and ours is level with MKL's where both have AVX2: the head of
the report says which rate torch's has here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from pyflowk import ops

from .report import OURS, Case, ratio_bar

ON_REQUEST = False
INPUTS, OUTPUTS = 32, 64
SIZES = ((1, 64), (64, 64), (64, 128), (256, 64), (256, 128), (1024, 128), (256, 512))
EAGER, COMPILE = "eager", "torch.compile"
ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU}


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "ops.mlp, which keeps the hidden units where gradients are recorded",
        EAGER: "nn.Sequential of Linear and activation",
        COMPILE: "of that, fullgraph, static shapes",
    }


def case(what: str, rows: int, width: int, activation: str) -> Case:
    """One contest."""
    torch.manual_seed(0)
    first, second, last = nn.Linear(INPUTS, width), nn.Linear(width, width), nn.Linear(width, OUTPUTS)
    net = nn.Sequential(first, ACTIVATIONS[activation](), second, ACTIVATIONS[activation](), last)
    weights, biases = zip(*((layer.weight, layer.bias) for layer in (first, second, last)), strict=True)
    compiled = torch.compile(net, dynamic=False, fullgraph=True)
    gradients = what == "training step"
    x, dy = torch.randn(rows, INPUTS, requires_grad=gradients), torch.randn(rows, OUTPUTS)

    def timed(forward: Callable[[], torch.Tensor]) -> Callable[[], object]:
        if not gradients:
            return forward
        return lambda: torch.autograd.grad(forward(), [x, *weights, *biases], dy)

    variants = {
        OURS: timed(lambda: ops.mlp(x, weights, biases, activation=activation)),
        EAGER: timed(lambda: net(x)),
        COMPILE: timed(lambda: compiled(x)),
    }
    return Case(
        f"mlp {what}, {activation}, {rows} rows, width {width}", variants, [ratio_bar(1.8, EAGER)], grad=gradients
    )


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for what in ("forward", "training step"):
        for activation in ACTIVATIONS:
            for rows, width in SIZES[:1] if quick else SIZES:
                yield case(what, rows, width, activation)
