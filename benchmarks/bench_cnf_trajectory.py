"""Whole trajectories of a continuous flow with its log-density: 20 steps of rk4 (3/8 rule), and a training step of 8.

The same concat MLP field with tanh in all of them, one Rademacher probe a row, one thread. `python -m benchmarks --only
cnf` takes the variants in turns and judges the bars; `bench_ffjord.py` compares what is learnt in equal time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from pyflowk.nets import MLPField
from pyflowk.ops.divergence import draw_probes
from pyflowk.solvers import Fixed
from pyflowk.transforms import Continuous

from .memory import peak_bytes
from .report import OURS, Bar, Case, ratio_bar

ON_REQUEST = False
TORCHDIFFEQ, EAGER, COMPILE = "torchdiffeq", "eager jvp", "torch.compile"
SIZES = {"2-D, 64 x 3, batch 64": (2, 64, 64), "2-D, 64 x 3, batch 1024": (2, 64, 1024)}
WIDE = {"63-D, 256 x 3, batch 1024": (63, 256, 1024)}
MEMORY = "peak memory <= 0.25 of torchdiffeq's, beside a work space of 0.1 to 5 MB a thread"
BARS = {"2-D, 64 x 3, batch 64": 15.0, "2-D, 64 x 3, batch 1024": 5.0, "63-D, 256 x 3, batch 1024": 3.0}


def notes() -> dict[str, str]:
    """What each rival's time includes."""
    return {
        OURS: "transforms.Continuous, one call of cnf_trajectory",
        TORCHDIFFEQ: "odeint with method rk4 over (x, log p), the probe pulled back by autograd; training by backprop",
        EAGER: "the same steps in plain torch, the probe pushed forward by torch.func.jvp",
        COMPILE: "of one eager step, fullgraph, static shapes",
    }


def make_field(size: int, width: int) -> MLPField:
    """The common field, off its zero start."""
    torch.manual_seed(0)
    field = MLPField(size, width, 3, "tanh", "concat")
    torch.nn.init.normal_(field.layers[-1].weight, std=0.3 / width**0.5)  # type: ignore[arg-type]
    return field


def pulled_back(field: MLPField, e: Tensor) -> Callable[[Tensor, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """FFJORD's right-hand side: f and e^T (df/dx) e by autograd."""

    def slopes(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        grad = torch.is_grad_enabled()
        with torch.enable_grad():
            x = state[0] if state[0].requires_grad else state[0].detach().requires_grad_()
            f = field(t, x)
            pulled = torch.autograd.grad(f, x, e, create_graph=grad)[0]
        divergence = (pulled * e).sum(1)
        return (f, divergence) if grad else (f.detach(), divergence)

    return slopes


def rk4_step(field: MLPField, t: Tensor, h: Tensor, x: Tensor, ladj: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the 3/8 rule in plain torch."""

    def slopes(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        f, v = torch.func.jvp(lambda y: field(t, y), (y,), (e,))
        return f, (e * v).sum(1)

    k1, d1 = slopes(t, x)
    k2, d2 = slopes(t + h / 3, x + h * k1 / 3)
    k3, d3 = slopes(t + 2 * h / 3, x + h * (k2 - k1 / 3))
    k4, d4 = slopes(t + h, x + h * (k1 - k2 + k3))
    return x + h * (k1 + 3 * (k2 + k3) + k4) / 8, ladj + h * (d1 + 3 * (d2 + d3) + d4) / 8


def plain_solve(
    step: Callable[..., tuple[Tensor, Tensor]], field: MLPField, steps: int, x: Tensor, e: Tensor
) -> tuple[Tensor, Tensor]:
    """From data to noise."""
    h, ladj = torch.tensor(-1 / steps), x.new_zeros(len(x))
    for i in range(steps):
        x, ladj = step(field, torch.tensor(1 - i / steps), h, x, ladj, e)
    return x, ladj


def peer_solve(field: MLPField, steps: int, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """The same by torchdiffeq."""
    from torchdiffeq import odeint

    times, state = torch.tensor([1.0, 0.0]), (x, x.new_zeros(len(x)))
    xs, ladjs = odeint(pulled_back(field, e), state, times, method="rk4", options={"step_size": 1 / steps})
    return xs[-1], ladjs[-1]


def training(solve: Callable[[Tensor], tuple[Tensor, Tensor]], field: MLPField, x: Tensor) -> Callable[[], object]:
    """Loss and gradient."""
    parameters = list(field.parameters())

    def call() -> object:
        z, ladj = solve(x)
        return torch.autograd.grad((0.5 * z.square().sum(1) - ladj).mean(), parameters, allow_unused=True)

    return call


def case(name: str, size: int, width: int, batch: int, train: bool) -> Case:
    """One contest; all start from one x and one probe, and their results are compared first."""
    steps, field = 8 if train else 20, make_field(size, width)
    x = torch.randn(batch, size, generator=torch.Generator().manual_seed(0))
    e = draw_probes(x, generator=torch.Generator().manual_seed(1)).directions(x)[:, 0]
    ours = Continuous(field, divergence="hutchinson", method="rk4", stepping=Fixed(steps))
    solves: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
        OURS: lambda x: ours(x, None, torch.Generator().manual_seed(1)),
        TORCHDIFFEQ: lambda x: peer_solve(field, steps, x, e),
        EAGER: lambda x: plain_solve(rk4_step, field, steps, x, e),
        COMPILE: lambda x: plain_solve(compiled, field, steps, x, e),
    }
    compiled = torch.compile(rk4_step, dynamic=False, fullgraph=True)
    with torch.no_grad():
        right = solves[EAGER](x)
        for solve in (solves[OURS], solves[TORCHDIFFEQ]):
            for a, b in zip(solve(x), right, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    variants: dict[str, Callable[[], object]] = {
        variant: training(solve, field, x) if train else partial(solve, x) for variant, solve in solves.items()
    }
    bars: list[Bar] = [ratio_bar(3.0 if train else BARS[name], TORCHDIFFEQ)]
    if train:
        bars.append(Bar(MEMORY, 0.25, lambda _: peak_bytes(variants[OURS]) / peak_bytes(variants[TORCHDIFFEQ]), True))
    else:
        bars.append(ratio_bar(2.5, COMPILE))
    return Case(f"{'training step, 8 steps' if train else 'log p, 20 steps'}, {name}", variants, bars, grad=train)


def cases(quick: bool) -> Iterator[Case]:
    """Every contest, built when its turn comes."""
    if quick:
        yield case("2-D, 64 x 3, batch 64", 2, 64, 8, train=False)
        return
    for train in (False, True):
        for name, sizes in {**SIZES, **WIDE}.items():
            yield case(name, *sizes, train=train)
