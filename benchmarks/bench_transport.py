"""Transport in the plane, ours beside torchcfm: `--only transport`, or `python -m benchmarks.bench_transport --help`.

The tasks, network and training of Tong et al., 2024, arXiv:2302.00482, table 2: 10,000 points to train on, 1000 epochs
of 19 batches of 512 by AdamW, 100 Euler steps; the exact 2-Wasserstein distance of 10,000 samples from as many test
points, and the normalised path energy. One task more has 63 dimensions. Ours and torchcfm's objective train the same
network from the same weights; their CPU seconds are those of the whole training, pairing included. The floor is the
distance of two test sets. The default is one seed and a tenth of the epochs; every run is kept in transport.json at
once, and what is there already is not run again.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyflowk.distributions import Empirical
from pyflowk.metrics import normalised_path_energy, wasserstein
from pyflowk.objectives import Matching, i_cfm, ot_cfm, sb_cfm, target_fm

from . import page as results
from .report import OURS, RESULTS, Bar, machine, save

ON_REQUEST = True
OPS = ("assignment", "sinkhorn")  # that it judges
POINTS, BATCH, EULER = 10_000, 512, 100
METHODS = ("OT-CFM", "I-CFM", "FM", "rectified flow", "SB-CFM")
PEER = "torchcfm"
#: what torchcfm cannot end in a day: at costs of several hundred and a regularisation of 2 POT's iterations run out
ENDLESS = ("moons -> 8gaussians", "SB-CFM")


# ---- tasks -----------------------------------------------------------------------------------------------------------


def ring(n: int, radius: float, std: float) -> Tensor:
    angle = 2 * math.pi * torch.randint(8, (n,)) / 8
    return radius * torch.stack((angle.cos(), angle.sin()), 1) + std * torch.randn(n, 2)


def half_circles(n: int, noise: float) -> Tensor:
    angle, upper = math.pi * torch.rand(n), torch.rand(n) < 0.5
    x = torch.stack((angle.cos(), angle.sin()), 1)
    return torch.where(upper[:, None], x, torch.tensor([1.0, 0.5]) - x) + noise * torch.randn(n, 2)


def moons(n: int) -> Tensor:
    return 2 * half_circles(n, 0.05) - torch.tensor([1.0, 0.0])


def wide_moons(n: int) -> Tensor:
    x = half_circles(n, 0.1)
    return 7 * (x - x.mean(0)) / x.std(0)


def s_curve(n: int) -> Tensor:
    t = 3 * math.pi * (torch.rand(n) - 0.5)
    return 1.5 * (torch.stack((t.sin(), t.sign() * (t.cos() - 1)), 1) + 0.05 * torch.randn(n, 2))


def spheres(n: int, dims: int = 63) -> Tensor:
    """Eight Gaussians, which are the same at every call."""
    centres = torch.randn(8, dims, generator=torch.Generator().manual_seed(0))
    return 2 * centres[torch.randint(8, (n,))] + 0.5 * torch.randn(n, dims)


TASKS: dict[str, tuple[Callable[[int], Tensor] | None, Callable[[int], Tensor]]] = {
    "N -> 8gaussians": (None, lambda n: ring(n, 5.0, 1.0)),
    "moons -> 8gaussians": (wide_moons, lambda n: ring(n, 12.0, 1.5)),
    "N -> moons": (None, moons),
    "N -> scurve": (None, s_curve),
    "N -> 8gaussians, D=63": (None, spheres),
}
"""Source, None for standard normal noise, and target."""
PLANE = [task for task in TASKS if "D=" not in task]
FASTER = dict.fromkeys(PLANE, 1.6) | {"N -> 8gaussians, D=63": 3.0}
"""How many times as fast as torchcfm's the whole training of OT-CFM is to be."""


# ---- methods ---------------------------------------------------------------------------------------------------------

Loss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
"""(network of (t, x), data, generator) -> the loss of a batch."""


def ours(method: str, source: Empirical | None) -> Loss:
    objective: Matching = {
        "OT-CFM": lambda: ot_cfm(0.1, source=source),
        "I-CFM": lambda: i_cfm(0.1, source=source),
        "FM": lambda: target_fm(0.1),
        "rectified flow": lambda: i_cfm(source=source),
        "SB-CFM": lambda: sb_cfm(sigma=1.0, source=source),
    }[method]()
    return lambda net, x1, generator: objective(net, x1, generator=generator, reduction="mean")


def peers(method: str, source: Empirical | None) -> Loss | None:
    """The same by torchcfm's classes; None where it is not installed."""
    try:
        import torchcfm
    except ImportError:
        return None
    matcher = {
        "OT-CFM": lambda: torchcfm.ExactOptimalTransportConditionalFlowMatcher(0.1),
        "I-CFM": lambda: torchcfm.ConditionalFlowMatcher(0.1),
        "FM": lambda: torchcfm.TargetConditionalFlowMatcher(0.1),
        "rectified flow": lambda: torchcfm.ConditionalFlowMatcher(0.0),
        "SB-CFM": lambda: torchcfm.SchrodingerBridgeConditionalFlowMatcher(1.0, "sinkhorn"),
    }[method]()

    warnings.filterwarnings("ignore", module="ot.*")  # POT tells of every batch that its iterations have run out

    def loss(net: nn.Module, x1: Tensor, generator: torch.Generator) -> Tensor:
        x0 = torch.randn(x1.shape, generator=generator) if source is None else source.sample(len(x1), None, generator)
        t, x, target = matcher.sample_location_and_conditional_flow(x0, x1)
        return (net(t, x) - target).square().mean()

    return loss


class Net(nn.Sequential):
    """[x, t] -> 64 -> 64 -> 64 -> D with SELU."""

    def __init__(self, dims: int = 2) -> None:
        sizes = (dims + 1, 64, 64, 64)
        layers = [part for i, o in itertools.pairwise(sizes) for part in (nn.Linear(i, o), nn.SELU())]
        super().__init__(*layers, nn.Linear(64, dims))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return super().forward(torch.cat((x, t.reshape(-1, 1).expand(len(x), 1)), 1))


# ---- one run ---------------------------------------------------------------------------------------------------------


def train(loss: Loss, x: Tensor, epochs: int, seed: int) -> tuple[Net, float]:
    """A trained network, and the CPU seconds that it took."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002, by which torchcfm draws its pairs
    net, generator = Net(x.shape[1]), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-5)
    start = time.process_time()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH)[: len(x) // BATCH]:
            optimizer.zero_grad()
            loss(net, x[rows], generator).backward()
            optimizer.step()
    return net, time.process_time() - start


@torch.no_grad()
def ways(net: Net, x0: Tensor) -> Tensor:
    """(EULER + 1, N, 2)."""
    states = [x0]
    for i in range(EULER):
        states.append(states[-1] + net(torch.tensor(i / EULER), states[-1]) / EULER)
    return torch.stack(states)


@functools.lru_cache(maxsize=1)
def drawn(task: str, seed: int, points: int) -> tuple[Tensor, Empirical | None, Tensor, Tensor, float]:
    """Data, source, starts, test points, and the squared distance of the last two."""
    torch.manual_seed(1000 + seed)
    begin, end = TASKS[task]
    data, test = end(POINTS), end(points)
    source = None if begin is None else Empirical(begin(POINTS))
    starts = torch.randn_like(test) if begin is None else begin(points)
    return data, source, starts, test, wasserstein(starts, test).item() ** 2


def judge(task: str, method: str, variant: str, seed: int, epochs: int, points: int) -> dict[str, Any] | None:
    """Distance, path energy and seconds of one training; None where there is none."""
    if (variant == PEER and (task, method) == ENDLESS) or (method == "FM" and TASKS[task][0] is not None):
        return None  # FM is of normal noise alone
    data, source, starts, test, least = drawn(task, seed, points)
    loss = (ours if variant == OURS else peers)(method, source)
    if loss is None:
        return None
    net, seconds = train(loss, data, epochs, seed)
    way = ways(net, starts)
    return {
        "task": task, "method": method, "variant": variant, "seed": seed, "epochs": epochs, "points": points,
        "w2": wasserstein(way[-1], test).item(), "npe": normalised_path_energy(way, least).item(), "seconds": seconds,
        "load": os.getloadavg()[0],
    }  # fmt: skip


def floor(task: str, points: int) -> float:
    """The distance of two test sets."""
    torch.manual_seed(7)
    end = TASKS[task][1]
    return wasserstein(end(points), end(points)).item()


# ---- tables ----------------------------------------------------------------------------------------------------------

SCORES = ("w2", "npe")
Figures = dict[str, list[float]]
"""Of one variant: its scores and seconds, one of each seed."""


class Page:
    """transport.json: all runs that were ever asked for, by what they were asked for."""

    KEY = ("task", "method", "variant", "seed", "epochs", "points")

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        path = None if folder is None else folder / "transport.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else {}
        by = [name for name in self.KEY if name != "seed"]
        self.content: dict[str, Any] = {"machine": machine(), "by": by, "floor": {}, "bars": [], "rows": [], **known}

    def run(self, *asked: Any) -> dict[str, Any] | None:
        """The run of `KEY`; what is not there is made and kept."""
        for known in self.content["rows"]:
            if tuple(known[name] for name in self.KEY) == asked:
                return known
        made = judge(*asked)
        if made is not None:
            self.content["rows"].append(made)
            self.write()
        return made

    def note(self, task: str, method: str, epochs: int, seeds: int, bar: dict[str, Any]) -> None:
        """Keep what a bar came to, in the place of what it came to before."""
        where = {"task": task, "method": method, "epochs": epochs, "text": bar["text"]}
        others = [known for known in self.content["bars"] if {name: known[name] for name in where} != where]
        self.content["bars"] = [*others, {**where, **bar, "seeds": seeds}]

    def write(self) -> None:
        """As far as there is a place to write to."""
        if self.folder is not None:
            save(self.folder, "transport", self.content)


def judged(task: str, method: str, of: dict[str, Figures]) -> Iterator[dict[str, Any]]:
    """Of samples: no worse than torchcfm's beyond what chance does; of OT-CFM: how much faster."""
    own, other, bars = of[OURS], of[PEER], []
    if len(own["w2"]) > 1:
        bars = [Bar(f"{name} above {PEER}'s, in standard errors", 2.0, itemgetter(name), limit=True) for name in SCORES]
    if method == "OT-CFM":
        bars.append(Bar(f"training >= {FASTER[task]:g}x as fast as {PEER}'s", FASTER[task], itemgetter("seconds")))
    figures = {name: excess(own[name], other[name]) for name in SCORES if len(own[name]) > 1}
    figures["seconds"] = sum(other["seconds"]) / sum(own["seconds"])
    yield from (bar.judge(figures) for bar in bars)


def excess(own: Sequence[float], other: Sequence[float]) -> float:
    """How far a mean is above another one, in standard errors of the difference."""
    error = math.hypot(*(statistics.stdev(values) / len(values) ** 0.5 for values in (own, other)))
    return (statistics.mean(own) - statistics.mean(other)) / error


def table(page: Page, seeds: int, epochs: int, points: int, tasks: list[str], methods: list[str]) -> None:
    """All runs, variants in turn; a line for each task, method and variant, and the bars."""
    for task in tasks:
        least = page.content["floor"][f"{task}, {points} points"] = floor(task, points)
        print(f"{task}: W2 of two test sets {least:.3f}", flush=True)
        for method in methods:
            of: dict[str, Figures] = {}
            for seed, variant in itertools.product(range(seeds), (OURS, PEER)):
                run = page.run(task, method, variant, seed, epochs, points)
                for name in (*SCORES, "seconds") if run is not None else ():
                    of.setdefault(variant, {}).setdefault(name, []).append(run[name])
            for variant, figures in of.items():
                line = "  ".join(f"{name} {_spread(values)}" for name, values in figures.items())
                print(f"  {method:15} {variant:9} {line}", flush=True)
            for bar in judged(task, method, of) if len(of) == 2 else ():
                print(f"    bar {bar['text']}: {bar['value']:.2f}, {'met' if bar['met'] else 'NOT MET'}", flush=True)
                page.note(task, method, epochs, seeds, bar)
    page.write()


def _spread(values: list[float]) -> str:
    """The mean, and its standard error."""
    error = f" +- {statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{error}"


def run(minutes: float, folder: Path | None) -> bool:
    """The table of one seed, a tenth of the epochs at `minutes` 1; always True."""
    torch.set_num_threads(1)
    epochs, points = max(1, round(100 * minutes)), 4000 if minutes >= 1 else 200
    table(Page(folder), 1, epochs, points, PLANE, list(METHODS))
    return True


def main() -> int:
    """The whole table, or a part of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=PLANE)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table(Page(given.out), given.seeds, given.epochs, given.points, given.tasks, given.methods)
    results.write(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
