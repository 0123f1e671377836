"""What one Euler step makes, by how noise and data are paired: `python -m benchmarks --only one_step`.

From a ring of eight Gaussians (radius 5, std 1) to two moons; one network, and for every pairing as many steps of AdamW
on batches of 256, whose rate falls to zero. Reflow takes half of them on pairs by chance and half on 10,000 pairs that
it then makes in 100 Euler steps. Once without labels; once with those of the moons, which the network is told, and
there each label's samples are held against its own test points. Beside the squared 2-Wasserstein distance after one
step stands that after 100, which says whether what comes out is right and not only straight: pairs that are made
whatever the label let noise tell of it, and what is drawn given a label is then biased.

Flow maps take one jump in place of the Euler step, by a network that hears the end of an interval too. They are trained
as long, not as often: in so many fewer steps as theirs take more CPU time than those of pairs by chance.

The question is that of Cheng and Schwing, 2025, arXiv:2503.10636.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from pyflowk import datasets
from pyflowk.distributions import GaussianMixture
from pyflowk.metrics import wasserstein
from pyflowk.nets import Field, FlowMap, MLPField
from pyflowk.objectives import FLOW_MAPS, FlowMapMatching, Matching
from pyflowk.paths import Given, OptimalTransport, Pairing, Semidiscrete, UniformTimes, independent

from .report import machine, save

ON_REQUEST = True
OPS = ("assignment", "nearest")  # that it judges
STEPS, FIT, BATCH, PAIRS, TESTED = 2000, 2000, 256, 10_000, 4000
RATE, SEEDS = 3e-3, (0, 1, 2)
WALKS = (1, 100)
CHANCE, PLAIN, AWARE, WHOLE, REFLOW = "independent", "minibatch OT", "condition-aware OT", "semidiscrete", "reflow"
MEAN, SPLIT, TERMINAL = "MeanFlow", "SplitMeanFlow", "terminal velocity"
FLAT: dict[str, Any] = {"times": UniformTimes(), "power": 0.0}  # which does best here
MAPS: dict[str, dict[str, Any]] = {
    MEAN: {**FLOW_MAPS["mean_flow"], **FLAT},
    SPLIT: {**FLOW_MAPS["split_mean_flow"], **FLAT},
    TERMINAL: {**FLOW_MAPS["terminal_velocity"], **FLAT},
}
METHODS = {False: (CHANCE, PLAIN, WHOLE, REFLOW, *MAPS), True: (CHANCE, PLAIN, AWARE, WHOLE, REFLOW, *MAPS)}
"""Without labels and with them."""


@cache
def source() -> GaussianMixture:
    """The ring."""
    ring, angle = GaussianMixture((2,), 8).requires_grad_(False), 2 * math.pi * torch.arange(8) / 8
    ring.mean.copy_(5 * torch.stack((angle.cos(), angle.sin()), 1))
    return ring


@cache
def moons(labelled: bool) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """Training rows and their labels, test points and theirs."""
    data = datasets.load("moons")
    return data.train, data.train_context if labelled else None, data.test, data.test_context if labelled else None


@cache
def semidiscrete(labelled: bool, steps: int) -> tuple[Semidiscrete, dict[str, float]]:
    """The transport of the whole ring to all training rows, and how its fit went."""
    rows, labels, *_ = moons(labelled)
    pairing, start = Semidiscrete(rows, labels, source=source()), time.process_time()
    fit = pairing.fit(steps, generator=Generator().manual_seed(0))
    return pairing, {"chi2": fit.chi2, "error": fit.error, "seconds": time.process_time() - start}


def learn(net: Field, loss: Callable[[Tensor, Generator], Tensor], steps: int, generator: Generator) -> None:
    """Steps on the loss of rows that are drawn by their numbers."""
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-5)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randint(PAIRS, (BATCH,), generator=generator), generator).backward()
        optimizer.step()
        plan.step()


@torch.no_grad()
def walk(net: Field, x: Tensor, labels: Tensor | None, steps: int) -> Tensor:
    """Where Euler steps lead, or one jump."""
    if steps == 1 and isinstance(net, FlowMap):
        return net.jump(0.0, x, labels, end=1.0)
    for i in range(steps):
        x = x + net(i / steps, x, labels) / steps
    return x


@cache
def share(method: str, labelled: bool) -> float:
    """How many steps of a flow map take as long as one of pairs by chance: of CPU time, in turns."""
    spent = dict.fromkeys((CHANCE, method), 0.0)
    for turn in range(6):
        for one in spent:
            start = time.process_time()
            train(one, labelled, 0, 20)
            spent[one] += (time.process_time() - start) * (turn > 0)
    return spent[CHANCE] / spent[method]


def train(method: str, labelled: bool, seed: int, steps: int) -> Field:
    """A network that has learned by one of the methods."""
    rows, labels, *_ = moons(labelled)
    torch.manual_seed(seed)
    net: Field = MLPField(2, 64, 3, "silu", "concat", classes=2 if labelled else None, interval=method in MAPS)
    net = FlowMap(net) if method in MAPS else net
    generator = Generator().manual_seed(seed)

    def on(pairing: Pairing) -> Callable[[Tensor, Generator], Tensor]:
        known: dict[str, Any] = {"pairing": pairing, "source": source()}
        objective = FlowMapMatching(**MAPS[method], **known) if method in MAPS else Matching(**known)
        return lambda chosen, noise: objective(
            net, rows[chosen], None if labels is None else labels[chosen], generator=noise, reduction="mean"
        )

    if method == REFLOW:
        learn(net, on(independent), steps // 2, generator)
        x0 = source().sample(PAIRS, None, generator)
        x1 = walk(net, x0, labels, WALKS[-1])
        learn(
            net, lambda chosen, noise: on(Given(x0[chosen], x1[chosen]))(chosen, noise), steps - steps // 2, generator
        )
    else:
        pairings: dict[str, Callable[[], Pairing]] = {
            CHANCE: lambda: independent,
            PLAIN: lambda: OptimalTransport("ignore"),
            AWARE: OptimalTransport,
            WHOLE: lambda: semidiscrete(labelled, min(FIT, steps))[0],
        }
        learn(net, on(pairings.get(method, pairings[CHANCE])()), steps, generator)
    return net


def distance(samples: Tensor, points: Tensor, of: Tensor | None, labels: Tensor | None) -> float:
    """The squared 2-Wasserstein distance; with labels the mean of those of each."""
    if of is None or labels is None:
        return wasserstein(samples, points).item() ** 2
    parts, generator = [(samples[of == i], points[labels == i]) for i in (0, 1)], Generator().manual_seed(0)
    return statistics.mean(wasserstein(*part, generator=generator).item() ** 2 for part in parts)


def judge(method: str, labelled: bool, seed: int, steps: int) -> dict[str, Any]:
    """Distances after few and many steps, and the CPU seconds of the training."""
    _, _, test, labels = moons(labelled)
    points, told = test[:TESTED], None if labels is None else labels[:TESTED]
    if method == WHOLE:
        semidiscrete(labelled, min(FIT, steps))  # fitted once, which is told apart
    if method in MAPS:
        steps = round(steps * share(method, labelled))
    start = time.process_time()
    net = train(method, labelled, seed, steps)
    seconds = time.process_time() - start
    x0 = source().sample(TESTED, None, Generator().manual_seed(1000 + seed))
    found = {f"w2 squared, {n}": distance(walk(net, x0, told, n), points, told, told) for n in WALKS}
    return {"method": method, "labels": labelled, "seed": seed, **found, "steps": steps, "seconds": seconds}


def run(minutes: float, folder: Path | None) -> bool:
    """Train everything, print a table, write folder/one_step.json after each run; always True."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*condition='ignore'.*")  # that it biases samples is shown here
    steps = STEPS if minutes >= 1 else max(2, round(STEPS * minutes))
    page: dict[str, Any] = {"machine": machine(), "steps": steps, "batch": BATCH, "floor": {}, "fit": {}}
    page |= {"by": ["method", "labels"], "rows": []}
    for labelled, methods in METHODS.items():
        _, _, test, labels = moons(labelled)
        halves = [None if labels is None else labels[part] for part in (slice(TESTED), slice(TESTED, 2 * TESTED))]
        least = distance(test[:TESTED], test[TESTED : 2 * TESTED], *halves)
        told = "with labels" if labelled else "without labels"
        page["floor"][told] = least
        print(f"{told}: squared W2 of two test sets {least:.4f}; after {WALKS[0]} and {WALKS[1]} Euler steps:")
        for method in methods:
            found = []
            for seed in SEEDS if minutes >= 1 else SEEDS[:2]:
                found.append(judge(method, labelled, seed, steps))
                page["rows"].append(found[-1])
                if method == WHOLE:
                    page["fit"][told] = semidiscrete(labelled, min(FIT, steps))[1]
                if folder is not None:
                    save(folder, "one_step", page)
            figures = "  ".join(_spread([one[f"w2 squared, {n}"] for one in found]) for n in WALKS)
            seconds = statistics.mean(one["seconds"] for one in found)
            print(f"  {method:20}{figures}   {seconds:.0f} s of training", flush=True)
    for told, fit in page["fit"].items():
        print(f"fit {told}: chi2 {fit['chi2']:.4f} +- {fit['error']:.4f}, {fit['seconds']:.0f} s")
    return True


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):8.4f} +- {statistics.stdev(values) / len(values) ** 0.5:.4f}"
