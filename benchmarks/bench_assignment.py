"""Exact assignment of points by squared distance, as minibatch optimal transport wants it, beside scipy and POT.

`python -m benchmarks --only assignment`. Rivals get the matrix of squared distances from torch, in float64 as they want
it, and that is timed; ours starts from the points in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyflowk.ops import assignment_of_points

from .report import OURS, Bar, Case, never_slower_bar
from .timing import Effort

try:
    import ot
except ImportError:  # an extra; its column is missing then
    ot = None

ON_REQUEST = False
SCIPY, POT = "scipy", "POT"
#: data, coordinates, points, and how many times as fast as the better rival
GAUSSIAN = (
    (2, 128, 3), (2, 256, 3), (2, 512, 3), (2, 1024, 3), (2, 4096, 8), (63, 128, 3), (63, 256, 4), (63, 1024, 8),
    (63, 4096, 20),
)  # fmt: skip
DEGENERATE = ("eight Gaussians", "one point", "integer grid", "heavy tails", "few points", "shifted")


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "ops.assignment_of_points",
        SCIPY: "torch.cdist squared, float64, linear_sum_assignment",
        POT: "the same, ot.emd with equal weights: network simplex",
    }


def better_bar(target: float) -> Bar:
    """Ours at least `target` times as fast as the faster of the rivals that are there."""
    text = f">= {target:g}x the better of scipy and POT"
    return Bar(text, target, lambda seconds: min(t for name, t in seconds.items() if name != OURS) / seconds[OURS])


def points(kind: str, rows: int, dims: int) -> tuple[Tensor, Tensor]:
    """Noise and data of one kind."""
    generator = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(rows, dims, generator=generator) for _ in range(2))
    if kind == "eight Gaussians":
        angle = torch.randint(0, 8, (rows,), generator=generator) * (math.pi / 4)
        x1 = 0.3 * x1
        x1[:, 0] += 5 * angle.cos()
        x1[:, 1] += 5 * angle.sin()
    elif kind == "one point":
        x0, x1 = torch.zeros_like(x0), torch.ones_like(x1)
    elif kind == "integer grid":
        x0, x1 = (3 * x0).round(), (3 * x1).round()
    elif kind == "heavy tails":
        x0, x1 = (x / torch.randn(rows, 1, generator=generator) ** 2 for x in (x0, x1))
    elif kind == "few points":
        x1 = x1[:10].repeat(rows // 10 + 1, 1)[:rows]
    elif kind == "shifted":
        x1 = x1 + 3
    return x0, x1


def case(kind: str, rows: int, dims: int, bar: Bar) -> Case:
    """One contest."""
    x0, x1 = points(kind, rows, dims)
    weights = torch.full((rows,), 1 / rows, dtype=torch.float64).numpy()

    def costs() -> object:
        return torch.cdist(x0, x1).square_().double().numpy()

    variants: dict[str, Callable[[], object]] = {
        OURS: lambda: assignment_of_points(x0, x1),
        SCIPY: lambda: linear_sum_assignment(costs()),
    }
    if ot is not None:
        variants[POT] = lambda: ot.emd(weights, weights, costs(), numItermax=10**8)
    long = Effort(rounds=1, batches=1, warmups=0) if rows > 2048 else Effort(rounds=5, batches=1, warmups=1)
    return Case(f"{kind}, {rows} points, D={dims}", variants, [bar], effort=long if rows > 512 else None)


def many(problems: int, rows: int, dims: int) -> Case:
    """Many small problems, which the rivals solve one after the other."""
    generator = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(problems, rows, dims, generator=generator) for _ in range(2))
    weights = torch.full((rows,), 1 / rows, dtype=torch.float64).numpy()
    variants: dict[str, Callable[[], object]] = {
        OURS: lambda: assignment_of_points(x0, x1),
        SCIPY: lambda: [linear_sum_assignment(c) for c in torch.cdist(x0, x1).square_().double().numpy()],
    }
    if ot is not None:
        variants[POT] = lambda: [ot.emd(weights, weights, c) for c in torch.cdist(x0, x1).square_().double().numpy()]
    return Case(f"Gaussian, {problems} problems of {rows}, D={dims}", variants, [better_bar(3)])


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for dims, rows, target in GAUSSIAN:
        if not quick or rows <= 128:
            yield case("Gaussian", rows, dims, better_bar(target))
    yield many(64, 64, 2)
    for kind in DEGENERATE:
        for rows in (128,) if quick else (256, 1024):
            yield case(kind, rows, 2, never_slower_bar())
