"""The rational-quadratic spline alone, logits given: (1024, 64) elements of 8 bins, linear tails.

All variants read one tensor (B, D (3 K - 1)), grouped by element, as a network writes it. `python -m benchmarks --only
rq_spline` judges the bars; pytest gives the same calls to pytest-benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.ops import rq_spline

from .report import OURS, Bar, Case, hand_over, ratio_bar

ON_REQUEST = False
ROWS, FEATURES, BINS, BOUND = 1024, 64, 8, 3.0
DIRECTIONS = ("forward", "inverse", "forward + backward")
ZUKO, NFLOWS, COMPILE = "zuko", "nflows", "zuko, torch.compile"
Spline = Callable[[Tensor, Tensor, bool], Any]


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "ops.rq_spline, log-determinant summed",
        ZUKO: "MonotonicRQSTransform made from the logits, its call_and_ladj, sum over the features",
        NFLOWS: "unconstrained_rational_quadratic_spline with linear tails, sum over the features",
        COMPILE: "of zuko's, static shapes",
    }


def ours(x: Tensor, params: Tensor, inverse: bool) -> Any:
    """One call."""
    return rq_spline(x, params, bins=BINS, interval=(-BOUND, BOUND), mask="all", interleaved=True, inverse=inverse)


def zuko_spline() -> Spline:
    """zuko's transform; its spline is on [-bound, bound], the identity outside."""
    from zuko.transforms import MonotonicRQSTransform

    def call(x: Tensor, params: Tensor, inverse: bool) -> Any:
        logits = params.unflatten(1, (FEATURES, -1)).split((BINS, BINS, BINS - 1), -1)
        spline = MonotonicRQSTransform(*logits, bound=BOUND)
        y, ladj = (spline.inv if inverse else spline).call_and_ladj(x)
        return y, ladj.sum(1)

    return call


def nflows_spline() -> Spline:
    """nflows' function."""
    from nflows.transforms.splines import unconstrained_rational_quadratic_spline

    def call(x: Tensor, params: Tensor, inverse: bool) -> Any:
        logits = params.unflatten(1, (FEATURES, -1)).split((BINS, BINS, BINS - 1), -1)
        y, ladj = unconstrained_rational_quadratic_spline(x, *logits, inverse=inverse, tails="linear", tail_bound=BOUND)
        return y, ladj.sum(1)

    return call


def splines() -> dict[str, Spline]:
    """Ours and whoever is installed."""
    found: dict[str, Spline] = {OURS: ours}
    for name, make in ((ZUKO, zuko_spline), (NFLOWS, nflows_spline)):
        try:
            found[name] = make()
        except ImportError:
            continue
    if ZUKO in found:
        found[COMPILE] = torch.compile(found[ZUKO], dynamic=False)
    return found


def with_gradient(spline: Spline, x: Tensor, params: Tensor) -> Callable[[], object]:
    """Forward and backward for given gradients of y and of the log-determinant."""
    inputs = x.clone().requires_grad_(), params.clone().requires_grad_()
    ones = torch.ones_like(x), torch.ones(len(x))
    return lambda: torch.autograd.grad(spline(*inputs, False), inputs, ones)


def case(direction: str) -> Case:
    """One contest."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=generator)
    params = torch.randn(ROWS, FEATURES * (3 * BINS - 1), generator=generator)
    variants: dict[str, Callable[[], object]] = {}
    for name, spline in splines().items():
        if direction == "forward + backward":
            variants[name] = with_gradient(spline, x, params)
        else:
            variants[name] = partial(spline, x, params, direction == "inverse")
    target = 15 if direction == "forward + backward" else 30
    bars: list[Bar] = [ratio_bar(target, peer) for peer in (ZUKO, NFLOWS) if peer in variants]
    if COMPILE in variants:
        bars.append(ratio_bar(8, COMPILE))
    return Case(f"{direction}, ({ROWS}, {FEATURES}), {BINS} bins", variants, bars, grad="backward" in direction)


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for direction in DIRECTIONS[:1] if quick else DIRECTIONS:
        yield case(direction)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("variant", (OURS, ZUKO, NFLOWS, COMPILE))
def test_rq_spline(benchmark: Any, direction: str, variant: str) -> None:
    hand_over(case(direction), variant, benchmark)
