"""A batch of an affine path with its noise, x_t and target, beside plain torch and flow_matching (if it is there).

`python -m benchmarks --only path_sample`. Times of the path are given; ours draws its keys in the call, and gives new
tensors as its rivals do, so of a large batch a part is what new pages cost (in a process that reuses them: less).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pyflowk.ops import path_sample
from pyflowk.ops.draw import draw_keys
from pyflowk.paths import CondOT

from .report import OURS, Case, never_slower_bar, ratio_bar

ON_REQUEST = False
SHAPES = ((512, 2), (256, 3, 32, 32), (64, 4, 64, 64))
KEYS_GIVEN, EAGER, FLOW_MATCHING = f"{OURS}, keys given", "eager", "flow_matching"
HAS_PEER = importlib.util.find_spec("flow_matching") is not None


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "draw_keys and ops.path_sample, coefficients given (noise given: ops.path_sample)",
        KEYS_GIVEN: "ops.path_sample alone",
        EAGER: "torch.randn, alpha x1 + sigma x0, alpha' x1 + sigma' x0 (noise given: without torch.randn)",
        FLOW_MATCHING: "torch.randn and AffineProbPath(CondOTScheduler()).sample",
    }


def _peer(x1: Tensor, t: Tensor, generator: torch.Generator) -> Callable[[], object]:
    from flow_matching.path import AffineProbPath
    from flow_matching.path.scheduler import CondOTScheduler

    path = AffineProbPath(CondOTScheduler())
    return lambda: path.sample(x_0=torch.randn(x1.shape, generator=generator), x_1=x1, t=t)


def case(shape: tuple[int, ...], drawn: bool) -> Case:
    """One contest."""
    generator = torch.Generator().manual_seed(0)
    x1, x0 = (torch.randn(shape, generator=generator) for _ in range(2))
    t = torch.rand(shape[0], generator=generator)
    coefficients = CondOT().at(t)
    a, s, da, ds = coefficients.beside(x1)

    def eager(noise: Tensor) -> tuple[Tensor, Tensor]:
        return a * x1 + s * noise, da * x1 + ds * noise

    def draw() -> Tensor:
        return draw_keys(shape[0], generator, device="cpu")

    size = "x".join(map(str, shape))
    if not drawn:
        variants = {OURS: lambda: path_sample(x1, coefficients, x0=x0), EAGER: lambda: eager(x0)}
        return Case(f"noise given, {size}", variants, [never_slower_bar()])
    keys = draw()
    variants = {
        OURS: lambda: path_sample(x1, coefficients, keys=draw()),
        KEYS_GIVEN: lambda: path_sample(x1, coefficients, keys=keys),
        EAGER: lambda: eager(torch.randn(shape, generator=generator)),
    }
    if HAS_PEER:
        variants[FLOW_MATCHING] = _peer(x1, t, generator)
    bars = [ratio_bar(2.2, EAGER), *([ratio_bar(4.5, FLOW_MATCHING)] if HAS_PEER else [])]
    return Case(f"noise drawn, {size}", variants, bars)


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for shape in SHAPES[:1] if quick else SHAPES:
        yield case(shape, True)
        yield case(shape, False)
