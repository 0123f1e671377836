"""Glow with 3 scales of 8 steps on (32, 3, 32, 32): density, sampling and the whole training step.

Every model has the same networks (3 x 3, 1 x 1, 3 x 3 convolutions, 64 channels), in which most of a step's arithmetic
lies: what is fused around them can win no more than the rest. Splits leave under a standard Gaussian, as in
normflows; the log-scale is log sigmoid(r + 2) in all. `python -m benchmarks --only glow`; memory: `--only depth`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyflowk import zoo
from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.transforms import (
    ActNorm,
    Affine,
    Compose,
    Coupling,
    InvertibleConv1x1,
    MemoryFlat,
    Reshape,
    Split,
    Squeeze,
    Transform,
)

from .bench_realnvp import training_step
from .peers.glow import Net, PlainGlow
from .report import OURS, Bar, Case, hand_over, ratio_bar

ON_REQUEST = False
BATCH, SHAPE, SCALES, STEPS, WIDTH = 32, (3, 32, 32), 3, 8, 64
FLAT, ZOO, EAGER, COMPILE, NORMFLOWS = "ours, memory-flat", "ours, zoo.glow", "eager", "torch.compile", "normflows"
VARIANTS = (OURS, FLAT, ZOO, EAGER, COMPILE, NORMFLOWS)

Entry = tuple[nn.Module, Callable[[Tensor], Tensor], Callable[[], object]]


def nets(channels: int, number: int) -> list[Net]:
    """The networks of one scale, in the order in which data passes them."""
    return [Net(channels // 2, channels, WIDTH) for _ in range(number)]


def steps(channels: int, networks: list[Net]) -> list[Transform]:
    """Glow's step around each network."""
    layers: list[Transform] = []
    for net in networks:
        mix = InvertibleConv1x1(channels, norm=ActNorm(channels))
        layers += [mix, Coupling(net, Affine("sigmoid"))]
    return layers


def our_flow(number: int, kind: type[Compose]) -> Flow:
    """Ours around the common networks."""

    def scale(c: int, side: int, left: int) -> list[Transform]:
        layers = [Squeeze(), *steps(4 * c, nets(4 * c, number))]
        c, side = 4 * c, side // 2
        if left == 1:
            return [*layers, Reshape((c, side, side), (c * side * side,))]
        inner = Compose(*scale(c // 2, side, left - 1))
        return [*layers, Split(inner, (c, side, side), (c // 2 * side * side,))]

    return Flow(DiagonalGaussian((math.prod(SHAPE),)), kind(*scale(SHAPE[0], SHAPE[1], SCALES)))


def normflows_glow(number: int) -> Any:
    """Its multi-scale flow of GlowBlocks; sigmoid scales as in ours."""
    import normflows as nf

    bases, flows, merges = [], [], []
    for i in reversed(range(SCALES)):
        channels, side = 4 * SHAPE[0] * 2**i, SHAPE[1] >> (i + 1)
        blocks = [nf.flows.GlowBlock(channels, WIDTH, split_mode="channel", scale=True) for _ in range(number)]
        flows.append([*blocks, nf.flows.Squeeze()])
        if i:
            merges.append(nf.flows.Merge())
        left = channels if i == SCALES - 1 else channels // 2
        bases.append(nf.distributions.DiagGaussian((left, side, side), trainable=False))
    return nf.MultiscaleFlow(bases, flows, merges, class_cond=False)


def models(number: int, wanted: tuple[str, ...] = VARIANTS) -> dict[str, Entry]:
    """variant -> (module, log_prob, sample), every data-dependent layer set."""
    torch.manual_seed(0)
    found: dict[str, Entry] = {}
    x = torch.randn(BATCH, *SHAPE)
    for name, kind in ((OURS, Compose), (FLAT, MemoryFlat)):
        flow = our_flow(number, kind)
        flow.initialize(x)
        found[name] = flow, flow.log_prob, partial(flow.sample, BATCH)
    whole = zoo.create("glow", SHAPE, scales=SCALES, steps=number, width=WIDTH)
    whole.initialize(x)
    found[ZOO] = whole, whole.log_prob, partial(whole.sample, BATCH)  # type: ignore[assignment]
    plain, compiled = (PlainGlow(SHAPE[0], SCALES, partial(nets, number=number)) for _ in range(2))
    found[EAGER] = plain, plain.log_prob, partial(plain.sample, BATCH, SHAPE[1])
    if COMPILE in wanted:
        options: dict[str, Any] = {"dynamic": False, "fullgraph": True}
        sample = torch.compile(compiled.sample, **options)
        found[COMPILE] = compiled, torch.compile(compiled.log_prob, **options), partial(sample, BATCH, SHAPE[1])
    try:
        peer = normflows_glow(number)
    except ImportError:
        return found
    peer.log_prob(x, None)  # sets its ActNorms
    found[NORMFLOWS] = peer, lambda x: peer.log_prob(x, None), partial(peer.sample, BATCH)
    return found


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "transforms around the common networks",
        FLAT: "the same stack as MemoryFlat",
        ZOO: "the zoo's model, which does more: learned priors at the splits, weight-normalised networks with gains",
        EAGER: "ActNorm, conv2d with W from LU factors, chunk and cat, by hand",
        COMPILE: "of its log_prob and sample, fullgraph, static shapes; the optimizer's step is eager for everybody",
        NORMFLOWS: "MultiscaleFlow of GlowBlocks; its sampler computes log q as well",
    }


def case(task: str, number: int, wanted: tuple[str, ...] = VARIANTS) -> Case:
    """One contest: "density", "sampling" or "training step"."""
    x = torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(1))
    variants: dict[str, Callable[[], object]] = {}
    for name, (model, log_prob, sample) in models(number, wanted).items():
        if task == "training step":
            variants[name] = training_step(model, log_prob, x)
        else:
            variants[name] = sample if task == "sampling" else partial(log_prob, x)
    return Case(f"Glow {task}, 3 x {number} steps", variants, bars(task), grad=task == "training step")


def bars(task: str) -> list[Bar]:
    """Those of the design; density has none."""
    if task == "density":
        return []
    if task == "sampling":
        return [ratio_bar(1.2, NORMFLOWS)]
    flat = Bar(f"memory-flat <= 1.35x {EAGER}", 1.35, lambda seconds: seconds[FLAT] / seconds[EAGER], limit=True)
    return [ratio_bar(1.25, NORMFLOWS), ratio_bar(1.0, EAGER), flat]


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for task in ("density", "sampling", "training step"):
        yield case(task, 1 if quick else STEPS, tuple(v for v in VARIANTS if v != COMPILE) if quick else VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", ["density", "sampling", "training step"])
def test_glow(benchmark: Any, task: str, variant: str) -> None:
    hand_over(case(task, STEPS, (variant,)), variant, benchmark)
