"""What samplers of symbols leave off a checkerboard, and in what time: `python -m benchmarks --only discrete_flow`.

Two symbols of 32 say which of 32 x 32 cells; data are even on half of the 4 x 4 squares. Nothing is trained: all
samplers ask the exact posterior, which is looked up, so that what lies off the board is the sampler's doing alone and,
of masks, the time is its own; of even noise most of the time goes into the tables, one for each step. The sampler of
flow_matching stands beside ours where it is installed.

The board is that of flow_matching's example (Lipman et al., 2024, arXiv:2412.06264), with fewer symbols.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from pyflowk.nets import Field
from pyflowk.paths import MixturePath
from pyflowk.solvers import EulerStep, GibbsStep, MixtureStep, first_hitting, jump_flow, uniform_grid

from .report import machine, save

ON_REQUEST = True
OPS = ("jump_step",)  # that it judges
CELLS, SQUARE, ROWS, SEEDS = 32, 8, 5000, (0, 1, 2)
STEPS = (8, 64)
PEER = "flow_matching"
HAS_PEER = importlib.util.find_spec(PEER) is not None


@cache
def board() -> Tensor:
    """The law of both symbols, (CELLS, CELLS)."""
    square = torch.arange(CELLS) // SQUARE
    black = ((square[:, None] + square) % 2 == 0).double()
    return black / black.sum()


class Board(Field):
    """The posterior of the board on a path: a table of all states, made anew where the time has changed."""

    def __init__(self, path: MixturePath) -> None:
        super().__init__()
        self.path, self.takes_time = path, path.mask is None
        self.made: tuple[float, Tensor] | None = None

    def table(self, kappa: float) -> Tensor:
        """Probabilities (inputs, inputs, 2, CELLS)."""
        if self.made is None or (self.takes_time and self.made[0] != kappa):
            noise = torch.zeros(self.path.inputs).double()
            noise[slice(CELLS) if self.path.mask is None else CELLS] = 1
            seen = (1 - kappa) * (noise / noise.sum())[:, None] + kappa * torch.eye(self.path.inputs)[:, :CELLS]
            joint = torch.einsum("ac,bd,cd->abcd", seen, seen, board())
            both = torch.stack((joint.sum(3), joint.sum(2)), 2)
            if self.path.mask is not None:  # what is no mask is data, off the board too
                eye = torch.eye(CELLS).double()
                both[:CELLS, :, 0], both[:, :CELLS, 1] = eye[:, None], eye
            self.made = kappa, (both / both.sum(-1, keepdim=True).clamp(min=1e-300)).float()
        return self.made[1]

    def probabilities(self, t: float, x: Tensor) -> Tensor:
        kappa = 0.5 if self.path.mask is not None else self.path.kappa(torch.tensor(t)).item()
        return self.table(kappa)[x[:, 0], x[:, 1]]

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.probabilities(float(t.flatten()[0]), x).log()  # one for all, where it is heard


def ours(source: str, steps: int, generator: Generator, **how: Any) -> Callable[[], Tensor]:
    path = MixturePath(CELLS, source)
    field, x = Board(path), path.noise(torch.zeros(ROWS, 2), generator)
    if how.pop("exact", False):
        return lambda: first_hitting(field, x, path, generator=generator)  # type: ignore[return-value]
    return lambda: jump_flow(field, x, path, uniform_grid(steps), generator=generator, **how)  # type: ignore[return-value]


def theirs(source: str, steps: int, generator: Generator) -> Callable[[], Tensor]:
    """Its Euler solver, which draws by torch's own generator."""
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler
    from flow_matching.solver import MixtureDiscreteEulerSolver
    from flow_matching.utils import ModelWrapper

    path = MixturePath(CELLS, source)
    field, x = Board(path), path.noise(torch.zeros(ROWS, 2), generator)

    class Wrapped(ModelWrapper):
        def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
            p = field.probabilities(float(t[0]), x)
            return torch.nn.functional.pad(p, (0, path.inputs - CELLS))

    solver = MixtureDiscreteEulerSolver(
        Wrapped(field), MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0)), path.inputs
    )
    torch.manual_seed(int(torch.randint(1 << 30, (), generator=generator)))
    return lambda: solver.sample(x, step_size=1 / steps, dtype_categorical=torch.float32)


VARIANTS: dict[tuple[str, str], Callable[[int, Generator], Callable[[], Tensor]]] = {
    ("mask", "mixture"): lambda steps, g: ours("mask", steps, g),
    ("mask", "euler"): lambda steps, g: ours("mask", steps, g, step=EulerStep()),
    ("mask", "psi 0.8"): lambda steps, g: ours("mask", steps, g, step=MixtureStep(psi=0.8)),
    ("mask", "first hitting"): lambda steps, g: ours("mask", steps, g, exact=True),
    ("mask", PEER): lambda steps, g: theirs("mask", steps, g),
    ("uniform", "mixture"): lambda steps, g: ours("uniform", steps, g),
    ("uniform", "euler"): lambda steps, g: ours("uniform", steps, g, step=EulerStep()),
    ("uniform", "gibbs"): lambda steps, g: ours("uniform", steps, g, gibbs=GibbsStep()),
    ("uniform", PEER): lambda steps, g: theirs("uniform", steps, g),
}


def run(*, minutes: float = 1.0, folder: Path | None = None) -> bool:
    """All samplers; a smoke test takes one seed."""
    page: dict[str, Any] = {"machine": machine(), "samples": ROWS, "by": ["source", "sampler", "steps"], "rows": []}
    if not HAS_PEER:
        print(f"peer {PEER} is missing: it is not installed")
    for (source, sampler), build in VARIANTS.items():
        if sampler == PEER and not HAS_PEER:
            continue
        for steps in STEPS:
            found = []
            for seed in SEEDS if minutes >= 1 else SEEDS[:1]:
                draw = build(steps, Generator().manual_seed(seed))
                draw()  # makes the tables of masks, and warms up
                start = time.process_time()
                x = draw()
                seconds = time.process_time() - start
                off = (board()[x[:, 0], x[:, 1]] == 0).double().mean().item()
                found.append({"source": source, "sampler": sampler, "steps": steps, "seed": seed, "off the board": off})
                found[-1]["seconds"] = seconds
            page["rows"] += found
            shares = [one["off the board"] for one in found]
            error = statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else math.nan
            spent = min(one["seconds"] for one in found)
            what = f"off the board {statistics.mean(shares):.4f} +- {error:.4f}"
            print(f"{source:8} {sampler:14} {steps:3} steps  {what}  {spent:.3f} s", flush=True)
    if folder is not None:
        save(folder, "discrete_flow", page)
    return True
