"""One residual layer, 63 dimensions, three hidden layers of 256: training step, density in evaluation mode, inverse.

A training step is the normalisation of the weights, x + g(x) with its log-determinant, the mean negative log-density
of a standard normal, its gradient, and a step of torch's fused AdamW. Everybody's branch is held to a Lipschitz
constant of 0.9 by the power iteration. The series alone, weights normalised and network evaluated before: 10 terms of
the log-determinant by one probe, with what its gradient needs. `python -m benchmarks --only residual`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from pyflowk.nets import LipschitzMLP
from pyflowk.nets.lipschitz import TransposedJacobian
from pyflowk.ops.power_series import power_series_by
from pyflowk.transforms import Residual, Roulette, Truncated

from .report import OURS, Case, hand_over, ratio_bar

ON_REQUEST = False
OPS = ("lipswish", "power_series")  # that it judges
try:
    import normflows as nf
except ImportError:
    nf = None

FEATURES, WIDTH, DEPTH, BATCH, LIPSCHITZ, TERMS = 63, 256, 3, 256, 0.9, 10
RECOMPUTE, PLAIN, NORMFLOWS = "ours, recompute", "eager", "normflows"
CHAIN, COMPILED, AUTOGRAD = "chain of products", "chain, torch.compile", "autograd"
TASKS = (
    "training step, 10 terms",
    "training step, roulette",
    "density, 20 terms",
    "inverse to rounding",
    "inverse to 0.01",
)
SERIES = ((FEATURES, WIDTH, BATCH), (2, 64, 64))

Layer = Callable[[Tensor], tuple[Tensor, Tensor]]


class Plain(nn.Module):
    """What a user writes by hand: torch's spectral_norm, the series by autograd, its gradient by the Neumann series."""

    def __init__(self, terms: int) -> None:
        super().__init__()
        sizes = [FEATURES, *[WIDTH] * DEPTH, FEATURES]
        linears = [spectral_norm(nn.Linear(a, b), n_power_iterations=2) for a, b in itertools.pairwise(sizes)]
        self.linears = nn.ModuleList(linears)
        self.terms, self.scale = terms, LIPSCHITZ ** (1 / len(linears))

    def branch(self, x: Tensor) -> Tensor:
        for linear in list(self.linears)[:-1]:
            h = self.scale * linear(x)
            x = h * torch.sigmoid(h) / 1.1
        return self.scale * self.linears[-1](x)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            g = self.branch(x)
            probe = torch.randint_like(x, 2) * 2 - 1
            v, power, value = torch.zeros_like(x), probe, x.new_zeros(len(x))
            for k in range(1, self.terms + 1):
                sign = 1 if k % 2 else -1
                v = v + sign * power
                (power,) = torch.autograd.grad(g, x, power, retain_graph=True)
                value = value + sign / k * (power * probe).sum(1)
            if not self.training:
                return x + g.detach(), value
            slope = (torch.autograd.grad(g, x, v, create_graph=True)[0] * probe).sum(1)
            return x + g, value + slope - slope.detach()

    def inverse(self, z: Tensor) -> Tensor:
        x, moved = z, torch.tensor(True)
        while moved:  # the whole batch, until its last row stands still to the same tolerance as ours
            new = z - self.branch(x)
            moved = ((new - x).norm(dim=1) > 5e-7 * (new.norm(dim=1) + z.norm(dim=1))).any()
            x = new
        return x


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "transforms.Residual around nets.LipschitzMLP",
        CHAIN: "series: the closed chain of products in plain torch, as for convolutions",
        AUTOGRAD: "series: a vector-Jacobian product of autograd a term",
        RECOMPUTE: "the same with recompute=True, which keeps x, v and the probe for the backward pass",
        PLAIN: "torch's spectral_norm, autograd's vector-Jacobian products, one Neumann gradient; right row weights",
        NORMFLOWS: "Residual around its LipschitzMLP, reduce_memory, 5 power iterations after the step (its example);"
        " scales all rows' gradients with the weight of row 0; its inverse stops at steps of 3e-3 an"
        " element, whatever the error; in evaluation 20 terms and a geometric number",
    }


def our_layer(recompute: bool = False, roulette: bool = False) -> Residual:
    """63-256-256-256-63, awake."""
    net = LipschitzMLP(FEATURES, WIDTH, DEPTH, LIPSCHITZ)
    training = Roulette() if roulette else Truncated(TERMS)
    layer = Residual(net, training, Truncated(20), recompute=recompute)
    for linear in net.layers:
        nn.init.kaiming_uniform_(linear.weight, 5**0.5)
    return layer


def their_layer(terms: int | None) -> nn.Module:
    """normflows' Residual."""
    sizes = [FEATURES, *[WIDTH] * DEPTH, FEATURES]
    net = nf.nets.LipschitzMLP(sizes, LIPSCHITZ ** (1 / len(sizes[1:])), init_zeros=False)
    return nf.flows.Residual(net, n_power_series=terms)


def step(module: nn.Module, layer: Layer, x: Tensor, after: Callable[[], object]) -> Callable[[], object]:
    """Loss, gradient, AdamW, and what the package does after it."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        z, ladj = layer(x)
        (0.5 * z.square().sum(1) - ladj).mean().backward()
        optimizer.step()
        after()

    return run


def case(task: str) -> Case:
    """One contest."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, FEATURES)
    variants: dict[str, Callable[[], object]] = {}
    if task.startswith("training"):
        roulette = "roulette" in task
        for name, recompute in ((OURS, False), (RECOMPUTE, True)):
            ours = our_layer(recompute, roulette)
            variants[name] = step(ours, ours, x, lambda: None)
        if not roulette:
            plain = Plain(TERMS)
            variants[PLAIN] = step(plain, plain, x, lambda: None)
        if nf is not None:
            theirs = their_layer(None if roulette else TERMS).train()
            variants[NORMFLOWS] = step(theirs, theirs.inverse, x, lambda: nf.utils.update_lipschitz(theirs, 5))
    else:
        ours, plain = our_layer().eval(), Plain(20).eval()
        z = ours(x)[0].detach()
        if task == "inverse to 0.01":
            ours.tolerance = 1e-2
        density = task.startswith("density")
        variants[OURS] = (lambda: ours(x)) if density else (lambda: ours.to_data(z))
        if task != "inverse to 0.01":
            variants[PLAIN] = (lambda: plain(x)) if density else (lambda: plain.inverse(z))
        if nf is not None and task != "inverse to rounding":
            theirs = their_layer(None).eval()
            variants[NORMFLOWS] = (lambda: theirs.inverse(x)) if density else (lambda: theirs.iresblock.inverse(z))
    rivals = [name for name in (PLAIN, NORMFLOWS) if name in variants]
    return Case(f"residual layer, {task}", variants, [ratio_bar(1.0, *rivals)] if rivals else [], grad="train" in task)


def series(features: int, width: int, batch: int) -> Case:
    """The contest of the series alone."""
    torch.manual_seed(0)
    net = LipschitzMLP(features, width, DEPTH, LIPSCHITZ)
    for linear in net.layers:
        nn.init.kaiming_uniform_(linear.weight, 5**0.5)
    x = torch.randn(batch, features, requires_grad=True)
    probe = torch.randint_like(x, 2) * 2 - 1
    with torch.no_grad():
        pull = net.eval().linearize(x)[1]
    chain = TransposedJacobian(pull.layers, pull.weights, pull.slopes)
    with torch.enable_grad():
        g = net.given()(x)
    product = lambda v: torch.autograd.grad(g, x, v, retain_graph=True)[0]  # noqa: E731
    variants: dict[str, Callable[[], object]] = {
        OURS: lambda: pull.power_series(probe, None, TERMS, 1, 1.0),
        CHAIN: lambda: power_series_by(chain, probe, None, TERMS),
        COMPILED: torch.compile(lambda: power_series_by(chain, probe, None, TERMS)),
        AUTOGRAD: lambda: power_series_by(product, probe, None, TERMS),
    }
    bars = [ratio_bar(2.8, AUTOGRAD)]
    if nf is not None:
        theirs = nf.flows.residual.basic_logdet_estimator  # without the vector that a gradient needs
        variants[NORMFLOWS] = lambda: theirs(g, x, TERMS, probe, lambda k: 1, False)
        bars.append(ratio_bar(3.0, NORMFLOWS))
    return Case(f"series, {TERMS} terms, {features}-{width}x{DEPTH}-{features}, batch {batch}", variants, bars)


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for sizes in SERIES[1:] if quick else SERIES:
        yield series(*sizes)
    for task in TASKS[:1] if quick else TASKS:
        yield case(task)


@pytest.mark.parametrize("variant", (OURS, RECOMPUTE, PLAIN, NORMFLOWS))
@pytest.mark.parametrize("task", TASKS)
def test_residual(benchmark: Any, task: str, variant: str) -> None:
    hand_over(case(task), variant, benchmark)
