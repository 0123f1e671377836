"""Transport in the plane, ours beside torchcfm: `--only transport`, or `python -m benchmarks.bench_transport --help`.

The tasks, network and training of Tong et al., 2024, arXiv:2302.00482, table 2: 10,000 points to train on, 1000 epochs
of 19 batches of 512 by AdamW, 100 Euler steps; the exact 2-Wasserstein distance of 10,000 samples from as many test
points, and the normalised path energy. Ours and torchcfm's objective train the same network from the same weights;
their CPU seconds are those of the whole training, pairing included. The floor is the distance of two test sets. The
default is one seed and a tenth of the epochs.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyflowk.distributions import Empirical
from pyflowk.metrics import normalised_path_energy, wasserstein
from pyflowk.objectives import Matching, i_cfm, ot_cfm, sb_cfm, target_fm

from .report import OURS, RESULTS, machine, save

ON_REQUEST = True
OPS = ("assignment", "sinkhorn")  # that it judges
POINTS, BATCH, EULER = 10_000, 512, 100
METHODS = ("OT-CFM", "I-CFM", "FM", "rectified flow", "SB-CFM")
PEER = "torchcfm"


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


TASKS: dict[str, tuple[Callable[[int], Tensor] | None, Callable[[int], Tensor]]] = {
    "N -> 8gaussians": (None, lambda n: ring(n, 5.0, 1.0)),
    "moons -> 8gaussians": (wide_moons, lambda n: ring(n, 12.0, 1.5)),
    "N -> moons": (None, moons),
    "N -> scurve": (None, s_curve),
}
"""Source, None for standard normal noise, and target."""


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

    def loss(net: nn.Module, x1: Tensor, generator: torch.Generator) -> Tensor:
        x0 = torch.randn(x1.shape, generator=generator) if source is None else source.sample(len(x1), None, generator)
        t, x, target = matcher.sample_location_and_conditional_flow(x0, x1)
        return (net(t, x) - target).square().mean()

    return loss


class Net(nn.Sequential):
    """[x, t] -> 64 -> 64 -> 64 -> 2 with SELU."""

    def __init__(self, dims: int = 2) -> None:
        sizes = (dims + 1, 64, 64, 64)
        layers = [part for i, o in itertools.pairwise(sizes) for part in (nn.Linear(i, o), nn.SELU())]
        super().__init__(*layers, nn.Linear(64, dims))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return super().forward(torch.cat((x, t.expand(len(x))[:, None]), 1))


# ---- one run ---------------------------------------------------------------------------------------------------------


def train(loss: Loss, x: Tensor, epochs: int, seed: int) -> tuple[Net, float]:
    """A trained network, and the CPU seconds that it took."""
    torch.manual_seed(seed)
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


def judge(task: str, method: str, variant: str, epochs: int, seed: int, points: int) -> dict[str, Any] | None:
    """Distance, path energy and seconds of one training."""
    torch.manual_seed(1000 + seed)
    begin, end = TASKS[task]
    data, test = end(POINTS), end(points)
    source = None if begin is None else Empirical(begin(POINTS))
    starts = torch.randn(points, 2) if begin is None else begin(points)
    loss = (ours if variant == OURS else peers)(method, source)
    if loss is None or (method == "FM" and source is not None):  # which is of normal noise alone
        return None
    net, seconds = train(loss, data, epochs, seed)
    way = ways(net, starts)
    distance = wasserstein(way[-1], test).item()
    energy = normalised_path_energy(way, wasserstein(starts, test) ** 2).item()
    return {"task": task, "method": method, "variant": variant, "seed": seed, "w2": distance, "npe": energy,
            "seconds": seconds}  # fmt: skip


def floors(points: int) -> dict[str, float]:
    """Of every task the distance of two test sets."""
    torch.manual_seed(7)
    return {task: wasserstein(end(points), end(points)).item() for task, (_, end) in TASKS.items()}


def table(seeds: int, epochs: int, points: int, tasks: list[str], methods: list[str]) -> dict[str, Any]:
    """All runs, variants in turn; a line for each task, method and variant."""
    least, runs = floors(points), []
    for task in tasks:
        print(f"{task}: W2 of two test sets {least[task]:.3f}", flush=True)
        for method in methods:
            found = [
                run for seed in range(seeds) for variant in (OURS, PEER)
                if (run := judge(task, method, variant, epochs, seed, points)) is not None
            ]  # fmt: skip
            runs += found
            for variant in (OURS, PEER):
                own = [run for run in found if run["variant"] == variant]
                if own:
                    figures = "  ".join(
                        f"{key} {_spread([run[key] for run in own])}" for key in ("w2", "npe", "seconds")
                    )
                    print(f"  {method:15} {variant:9} {figures}", flush=True)
    return {"machine": machine(), "epochs": epochs, "points": points, "floor": least, "runs": runs}


def _spread(values: list[float]) -> str:
    error = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{error}"


def run(minutes: float, folder: Path | None) -> bool:
    """The table of one seed, a tenth of the epochs at `minutes` 1, and what is drawn into folder/transport.json."""
    torch.set_num_threads(1)
    epochs = max(1, round(100 * minutes))
    page = table(1, epochs, 4000 if minutes >= 1 else 200, list(TASKS), list(METHODS))
    if folder is not None:
        save(folder, "transport", page)
    return True


def main() -> int:
    """The whole table, or a part of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    save(given.out, "transport", table(given.seeds, given.epochs, given.points, given.tasks, given.methods))
    return 0


if __name__ == "__main__":
    sys.exit(main())
