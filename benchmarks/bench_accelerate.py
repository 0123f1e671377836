"""Flows of zuko, nflows and normflows beside themselves with our kernels inside (`pyflowk.compat.accelerate`).

The same parameters, the same calls of the package's own interface, its base distribution included.
`python -m benchmarks --only accelerate`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyflowk.compat import accelerate

from .peers import load
from .report import OURS, Case, ratio_bar
from .timing import Effort

ON_REQUEST = False
SLOW = Effort(rounds=2, batches=1, seconds=2e-2, warmups=1)  # calls of seconds
SAMPLING, DENSITY, TRAINING = "sampling", "density", "training step"


def _zuko(kind: str, features: int, width: int, **options: Any) -> nn.Module:
    import zuko

    return getattr(zuko.flows, kind)(features, transforms=5, hidden_features=(width, width), **options)


def _nflows(kind: str, features: int, width: int, context: int | None = None, **options: Any) -> nn.Module:
    """As sbi builds it: two blocks without residuals, random permutations between."""
    options = {"context_features": context, "use_residual_blocks": False, **options}
    from nflows import distributions, flows, transforms

    layers: list[nn.Module] = []
    for _ in range(5):
        layers.append(getattr(transforms, kind)(features, width, **options))
        layers.append(transforms.RandomPermutation(features))
    return flows.Flow(transforms.CompositeTransform(layers), distributions.StandardNormal([features]))


def _normflows(kind: str, features: int, width: int, **options: Any) -> nn.Module:
    import normflows

    layers = [getattr(normflows.flows, kind)(features, width, **options) for _ in range(5)]
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(features, trainable=False), layers)


def _nflows_coupling(features: int, width: int) -> nn.Module:
    """RealNVP of residual networks."""
    from nflows import distributions, flows, transforms
    from nflows.nn.nets import ResidualNet

    masks = [[(-1) ** (i + j) for j in range(features)] for i in range(5)]
    layers = [transforms.AffineCouplingTransform(m, partial(ResidualNet, hidden_features=width)) for m in masks]
    return flows.Flow(transforms.CompositeTransform(layers), distributions.StandardNormal([features]))


def _normflows_coupling(features: int, width: int) -> nn.Module:
    import normflows

    half = (features + 1) // 2
    layers: list[nn.Module] = []
    for _ in range(5):
        net = normflows.nets.MLP([half, width, width, 2 * (features - half)], init_zeros=True)
        layers += [normflows.flows.AffineCouplingBlock(net), normflows.flows.Permute(features, mode="swap")]
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(features, trainable=False), layers)


_NSF, CONTEXT = "MaskedPiecewiseRationalQuadraticAutoregressiveTransform", 10
#: name -> package, flow, D, widths of two hidden layers, batch, and by task how many times as fast it must be.
FLOWS: dict[str, tuple[str, Callable[..., nn.Module], int, int, int, dict[str, float]]] = {
    "zuko MAF": ("zuko", partial(_zuko, "MAF"), 63, 512, 1024, {SAMPLING: 100.0, DENSITY: 2.0, TRAINING: 1.0}),
    "zuko MAF, small": ("zuko", partial(_zuko, "MAF"), 5, 50, 1024, {SAMPLING: 8.0, DENSITY: 1.5, TRAINING: 1.0}),
    "nflows MAF, as in sbi": (
        "nflows", partial(_nflows, "MaskedAffineAutoregressiveTransform"), 5, 50, 1024,
        {SAMPLING: 8.0, DENSITY: 1.5, TRAINING: 1.0},
    ),
    "zuko NSF": ("zuko", partial(_zuko, "NSF"), 63, 128, 1024, {SAMPLING: 30.0, DENSITY: 2.0, TRAINING: 1.0}),
    "zuko NSF, a posterior": (
        "zuko", partial(_zuko, "NSF", context=CONTEXT), 5, 50, 1024, {SAMPLING: 8.0, DENSITY: 2.0, TRAINING: 1.0},
    ),
    "nflows NSF, a posterior as in sbi": (
        "nflows", partial(_nflows, _NSF, context=CONTEXT, num_bins=8, tails="linear", tail_bound=3.0), 5, 50, 1024,
        {SAMPLING: 8.0, DENSITY: 3.0, TRAINING: 1.5},
    ),
    "normflows MAF": (
        "normflows", partial(_normflows, "MaskedAffineAutoregressive"), 16, 64, 1024, {SAMPLING: 1.0, DENSITY: 10.0},
    ),
    "zuko NICE": ("zuko", partial(_zuko, "NICE"), 6, 64, 1024, {SAMPLING: 1.0, DENSITY: 1.0, TRAINING: 1.0}),
    "nflows RealNVP": ("nflows", _nflows_coupling, 6, 64, 1024, {SAMPLING: 1.0, DENSITY: 1.0, TRAINING: 1.0}),
    "normflows RealNVP": ("normflows", _normflows_coupling, 6, 64, 1024, {SAMPLING: 1.0, DENSITY: 1.0, TRAINING: 1.0}),
}  # fmt: skip


def peers() -> list[str]:
    """Those that are installed."""
    return [peer.name for peer in load()[0] if peer.name in {package for package, *_ in FLOWS.values()}]


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "the package's own flow after accelerate(flow), called by its own interface",
        "zuko": "flow().sample, flow().log_prob",
        "nflows": "flow.sample, flow.log_prob; layers as sbi builds them",
        "normflows": "flow.sample, flow.log_prob; sampling is its direct direction, the density the sequential one",
    }


def call_of(task: str, package: str, flow: Any, x: Tensor, c: Tensor | None) -> Callable[[], object]:
    """One call of that task on x's many rows, under one context."""
    context = {} if c is None else {"context": c[None]}
    contexts = {} if c is None else {"context": c.expand(len(x), -1)}

    def density() -> Tensor:
        return flow(c).log_prob(x) if package == "zuko" else flow.log_prob(x, **contexts)

    def sampling() -> object:
        return flow(c).sample((len(x),)) if package == "zuko" else flow.sample(len(x), **context)

    def training() -> None:
        flow.zero_grad()
        density().mean().backward()

    return {SAMPLING: sampling, DENSITY: density, TRAINING: training}[task]


def case(name: str, task: str) -> Case:
    """One flow and task."""
    package, build, features, width, batch, bars = FLOWS[name]
    torch.manual_seed(0)
    flow = build(features, width)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layer left as it was
        fast = accelerate(flow)
    x, c = torch.randn(batch, features), torch.randn(CONTEXT) if "posterior" in name else None
    variants = {OURS: call_of(task, package, fast, x, c), package: call_of(task, package, flow, x, c)}
    slow = features * width >= 1024 and bars[task] >= 10
    return Case(
        f"{name}: {task}, D = {features}, {width} x 2, batch {batch}", variants, [ratio_bar(bars[task], package)],
        grad=task == TRAINING, effort=SLOW if slow else None,
    )  # fmt: skip


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for name, (package, *_, bars) in FLOWS.items():
        if package in peers() and not (quick and name == "zuko MAF"):
            yield from (case(name, task) for task in bars)


@pytest.mark.parametrize("task", [SAMPLING, DENSITY, TRAINING])
@pytest.mark.parametrize("which", [0, 1], ids=["ours", "zuko"])
def test_accelerate(benchmark: Any, task: str, which: int) -> None:
    pytest.importorskip("zuko")
    contest = case("zuko MAF, small", task)
    benchmark.group = contest.name
    with torch.set_grad_enabled(contest.grad):
        benchmark(list(contest.variants.values())[which])
