"""The invertible 1x1 convolution in LU factors, its weight and log-determinant included: forward, inverse, training.

Batches of 64 images at the sizes of a Glow: 12 channels at 16 x 16, 48 at 16 x 16, 192 at 8 x 8. Nobody keeps his
weight between calls but where the contest says so ("inverse": one weight, sampled from again and again, as in use).
`python -m benchmarks --only conv1x1` judges the bars; pytest gives the same calls to pytest-benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyflowk.transforms import InvertibleConv1x1

from .report import OURS, Bar, Case, hand_over, never_slower_bar, ratio_bar

ON_REQUEST = False
OPS = ("conv1x1", "lu_weight")  # that it judges
SHAPES = {"C=12, 16x16": (64, 12, 16, 16), "C=48, 16x16": (64, 48, 16, 16), "C=192, 8x8": (64, 192, 8, 8)}
DIRECTIONS = ("forward", "inverse", "training step")
EAGER, MATMUL, COMPILE, NORMFLOWS = "eager conv", "eager matmul", "torch.compile", "normflows"


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "InvertibleConv1x1; forward and training assemble W anew, the inverse has it kept after its first call",
        EAGER: "W from masks, P, L, U, log |d| and conv2d, as Glow's ports write it; the inverse by torch.linalg.inv",
        MATMUL: "the same with W @ x.flatten(2): the best plain torch that we know",
        COMPILE: "of the eager matmul form, fullgraph, static shapes",
        NORMFLOWS: "Invertible1x1Conv(use_lu=True); one log-determinant for the batch",
    }


class Plain(nn.Module):
    """By hand in plain torch."""

    def __init__(self, ours: InvertibleConv1x1, convolution: bool) -> None:
        super().__init__()
        n, lu = ours.channels, ours.lu.detach().clone()
        self.lower, self.upper = nn.Parameter(lu.tril(-1)), nn.Parameter(lu.triu(1))
        self.log_diag = nn.Parameter(lu.diagonal().clone())
        self.register_buffer("p", torch.eye(n)[ours.permutation])
        self.register_buffer("signs", ours.signs.float())
        self.register_buffer("mask", torch.ones(n, n).tril(-1))
        self.register_buffer("eye", torch.eye(n))
        self.convolution = convolution

    def weight(self) -> Tensor:
        lower = self.lower * self.mask + self.eye
        upper = self.upper * self.mask.T + torch.diag(self.signs * self.log_diag.exp())
        return self.p @ lower @ upper

    def product(self, weight: Tensor, x: Tensor) -> Tensor:
        if self.convolution:
            return nn.functional.conv2d(x, weight[:, :, None, None])
        return torch.matmul(weight, x.flatten(2)).view_as(x)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ladj = x.shape[2] * x.shape[3] * self.log_diag.sum()
        return self.product(self.weight(), x), ladj.expand(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        ladj = -z.shape[2] * z.shape[3] * self.log_diag.sum()
        return self.product(torch.linalg.inv(self.weight()), z), ladj.expand(z.shape[0])


def layers(channels: int) -> dict[str, tuple[Callable[..., Any], Callable[..., Any], list[nn.Parameter]]]:
    """variant -> (data to noise, noise to data, parameters)."""
    ours = InvertibleConv1x1(channels, generator=torch.Generator().manual_seed(0))
    conv, matmul = Plain(ours, True), Plain(ours, False)
    compiled = [torch.compile(f, dynamic=False, fullgraph=True) for f in (matmul.forward, matmul.inverse)]
    found: dict[str, Any] = {
        OURS: (ours, ours.inverse, list(ours.parameters())),
        EAGER: (conv, conv.inverse, list(conv.parameters())),
        MATMUL: (matmul, matmul.inverse, list(matmul.parameters())),
        COMPILE: (*compiled, list(matmul.parameters())),
    }
    try:
        import normflows
    except ImportError:
        return found
    theirs = normflows.flows.Invertible1x1Conv(channels, use_lu=True)  # its forward runs from noise to data
    return found | {NORMFLOWS: (theirs.inverse, theirs.forward, list(theirs.parameters()))}


def training_step(call: Callable[..., Any], x: Tensor, parameters: list[nn.Parameter]) -> Callable[[], object]:
    """Forward and backward for given gradients of z and of the log-determinant."""
    x, dz = x.clone().requires_grad_(), torch.ones_like(x)

    def step() -> object:
        z, ladj = call(x)
        return torch.autograd.grad((z, ladj), [x, *parameters], (dz, torch.ones_like(ladj)), allow_unused=True)

    return step


def bars(size: str, direction: str) -> list[Bar]:
    """What the design asks for."""
    targets = {"forward": (3, 1.3), "inverse": (3, 1.5), "training step": (2.5, 2.5)}[direction]
    if size == "C=192, 8x8":
        return [never_slower_bar()]
    rivals = (EAGER, COMPILE, NORMFLOWS)
    return [ratio_bar(targets[size != "C=12, 16x16"], *rivals), never_slower_bar()]


def case(size: str, direction: str) -> Case:
    """One contest."""
    x = torch.randn(SHAPES[size], generator=torch.Generator().manual_seed(1))
    variants: dict[str, Callable[[], object]] = {}
    for name, (forward, inverse, parameters) in layers(x.shape[1]).items():
        if direction == "training step":
            variants[name] = training_step(forward, x, parameters)
        elif direction == "inverse":
            variants[name] = partial(inverse, x)
        else:
            variants[name] = _assembled(forward, x, parameters)
    return Case(f"{direction}, {size}", variants, bars(size, direction), grad=direction == "training step")


def _assembled(forward: Callable[..., Any], x: Tensor, parameters: list[nn.Parameter]) -> Callable[[], object]:
    """A forward after a change of the parameters, so that nobody's weight is kept."""

    def call() -> object:
        torch._C._autograd._unsafe_set_version_counter((parameters[0],), (parameters[0]._version + 1,))
        return forward(x)

    return call


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for size in list(SHAPES)[:1] if quick else SHAPES:
        for direction in DIRECTIONS:
            yield case(size, direction)


@pytest.mark.parametrize("variant", [OURS, EAGER, MATMUL, COMPILE, NORMFLOWS])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", SHAPES)
def test_conv1x1(benchmark: Any, size: str, direction: str, variant: str) -> None:
    hand_over(case(size, direction), variant, benchmark)
