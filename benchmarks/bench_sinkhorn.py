"""Entropic transport of points to a marginal error of 1e-4, beside POT and beside products of torch.

`python -m benchmarks --only sinkhorn`. All solve the same problem, and end when their own check says 1e-4: POT and
torch look every ten iterations, POT at 2-norms, which are below the sum that ours is. Rivals get the matrix of squared
distances from torch, and that is timed. The regularisation is a share of the median squared distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pyflowk.ops import sinkhorn, sinkhorn_draw

from .report import OURS, Bar, Case, ratio_bar
from .timing import Effort

try:
    import ot
except ImportError:  # an extra; its columns are missing then
    ot = None

ON_REQUEST = False
POT_LOG, POT_STABLE, PRODUCTS = "POT, log domain", "POT, stabilised", "torch, float32 products"
#: points, coordinates, and the regularisation as a share of the median squared distance
SIZES = (
    (256, 2, 0.05), (256, 63, 0.02), (1024, 2, 0.05), (1024, 63, 0.02), (1024, 63, 0.005), (4096, 2, 0.05),
    (4096, 63, 0.02),
)  # fmt: skip
TOLERANCE, MOST = 1e-4, 2000


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "ops.sinkhorn of float32 points; draws: ops.sinkhorn_draw, a partner for every row",
        POT_LOG: "torch.cdist squared, float64, ot.sinkhorn(method='sinkhorn_log')",
        POT_STABLE: "the same with method='sinkhorn_stabilized'; POT 0.9.7 never converges at 1024 points",
        PRODUCTS: "torch.cdist squared, exp, u = a / (K v) and v = b / (K^T u), every tenth time the error",
    }


def products(x0: Tensor, x1: Tensor, reg: float) -> tuple[Tensor, Tensor]:
    """Scalings by torch's own products, in float32; large reg only, as exponentials run out of range."""
    kernel = torch.cdist(x0, x1).square_().div_(-reg).exp_()
    a, b = (x.new_full((len(x),), 1 / len(x)) for x in (x0, x1))
    u, v = torch.ones_like(a), torch.ones_like(b)
    for step in range(MOST):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
        if step % 10 == 9 and float((u * (kernel @ v) - a).abs().sum()) < TOLERANCE:
            break
    return u, v


def case(rows: int, dims: int, share: float) -> Case:
    """One contest."""
    generator = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(rows, dims, generator=generator) for _ in range(2))
    reg = share * float(torch.cdist(x0[:512], x1[:512]).square().median())
    weights = torch.full((rows,), 1 / rows, dtype=torch.float64).numpy()

    def pot(method: str) -> object:
        cost = torch.cdist(x0, x1).square_().double().numpy()
        return ot.sinkhorn(weights, weights, cost, reg, method=method, stopThr=TOLERANCE, numItermax=MOST, warn=False)

    variants: dict[str, Callable[[], object]] = {
        OURS: lambda: sinkhorn(x0, x1, reg, tolerance=TOLERANCE, iterations=MOST)
    }
    bars: list[Bar] = []
    if share >= 0.02:  # below, exponentials of costs are 0 in float32
        variants[PRODUCTS] = lambda: products(x0, x1, reg)
        bars.append(ratio_bar(4, PRODUCTS))
    if ot is not None and rows <= 1024:  # beyond, minutes
        variants[POT_STABLE], variants[POT_LOG] = lambda: pot("sinkhorn_stabilized"), lambda: pot("sinkhorn_log")
        bars += [ratio_bar(10, POT_STABLE), ratio_bar(50, POT_LOG)]
    few = Effort(rounds=2, batches=1, warmups=0)
    return Case(
        f"{rows} points, D={dims}, reg={share:g} of the median", variants, bars, effort=few if rows > 256 else None
    )


def draws(rows: int, dims: int) -> Case:
    """A partner for every row, once the potentials are known."""
    generator = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(rows, dims, generator=generator) for _ in range(2))
    found = sinkhorn(x0, x1, 0.5)

    def rival() -> Tensor:
        plan = torch.softmax((found.g - torch.cdist(x0, x1).square_()) / 0.5, 1)
        return torch.multinomial(plan, 1)

    variants = {OURS: lambda: sinkhorn_draw(x0, x1, found.g, 0.5), "torch.multinomial": rival}
    return Case(f"{rows} draws, D={dims}", variants, [ratio_bar(2, "torch.multinomial")])


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    for size in SIZES[:1] if quick else SIZES:
        yield case(*size)
    yield draws(256, 2)
    if not quick:
        yield draws(1024, 63)
