"""Flow matching in pictures, a minute on one core: eight Gaussians become two moons.

One network learns from independent pairs, one from optimal transport within each batch, and one from the pairs that the
first has made (reflow). The pictures show pairs, the ways of samples, velocities half way, and what a single Euler step
gives; the table says how straight the ways are and how near one step and a hundred come to the data.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

from pyflowk import datasets
from pyflowk.distributions import Empirical
from pyflowk.metrics import normalised_path_energy, straightness, wasserstein
from pyflowk.objectives import Matching, i_cfm, ot_cfm
from pyflowk.paths import Given
from pyflowk.solvers import Fixed, odeint

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the back end is chosen first

STEPS = 100
Batch = Callable[["Velocity", torch.Generator], Tensor]
"""(network, generator) -> the losses of a batch."""


class Velocity(nn.Module):
    """A perceptron of the place and the time."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [part for _ in range(2) for part in (nn.Linear(64, 64), nn.SiLU())]
        self.net = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), *hidden, nn.Linear(64, 2))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.net(torch.cat((x, t.reshape(-1, 1).expand(len(x), 1)), 1))


def train(batch: Batch, steps: int, start: Velocity | None = None) -> Velocity:
    """A network that learns by the losses of batches, from the weights of another if there is one."""
    torch.manual_seed(0)
    net, generator = Velocity() if start is None else copy.deepcopy(start), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        batch(net, generator).mean().backward()
        optimizer.step()
        plan.step()
    return net


def rows_of(x: Tensor, generator: torch.Generator, count: int = 256) -> Tensor:
    return x[torch.randint(len(x), (count,), generator=generator)]


@torch.no_grad()
def ways(velocity: Velocity, x0: Tensor, steps: int = STEPS) -> Tensor:
    """(steps + 1, N, 2)."""
    return odeint(velocity, x0, torch.linspace(0, 1, steps + 1), method="euler", stepping=Fixed(1))


def picture(path: Path, velocities: dict[str, Velocity], x0: Tensor, data: Tensor, ot: Matching) -> None:
    """A row for each velocity: pairs it has learned from, ways, the field half way, one step."""
    figure, axes = plt.subplots(len(velocities), 4, figsize=(14, 3.4 * len(velocities)), squeeze=False)
    few, side = slice(150), torch.linspace(-5, 5, 21)
    grid = torch.cartesian_prod(side, side)
    for (name, velocity), (pairs, tracks, field, single) in zip(velocities.items(), axes, strict=True):
        way = ways(velocity, x0)
        ends = {"independent": data, "optimal transport": data, "reflow": way[-1]}[name]
        starts = ot.pairing(x0[few], ends[few])[0] if name == "optimal transport" else x0[few]
        pairs.plot(*torch.stack((starts, ends[few])).permute(2, 0, 1), color="0.6", lw=0.4)
        tracks.plot(*way[:, few].permute(2, 0, 1), color="C0", lw=0.4)
        with torch.no_grad():
            field.quiver(*grid.T, *velocity(torch.tensor(0.5), grid).T, color="C2")
        once = ways(velocity, x0, 1)[-1]
        for axis, points in ((pairs, ends[few]), (tracks, way[-1, few]), (single, once)):
            axis.scatter(*points.T, s=2, color="C1")
        for axis, title in zip((pairs, tracks, field, single), ("pairs", "ways", "velocity at 0.5", "one Euler step")):
            axis.set(title=f"{name}: {title}", xlim=(-5, 5), ylim=(-5, 5), xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(steps: int = 6000, out: Path = Path("tour.png")) -> dict[str, dict[str, float]]:
    """Train the three, draw them and print the table; its figures by name."""
    source, target = (datasets.load(name) for name in ("8gaussians", "moons"))
    data, test, starts = 2 * target.train, 2 * target.test[:2000], source.test[:2000]
    noise = Empirical(source.train)

    def by(objective: Matching) -> Velocity:
        def batch(velocity: Velocity, generator: torch.Generator) -> Tensor:
            return objective(velocity, rows_of(data, generator), generator=generator)

        return train(batch, steps)

    ot = ot_cfm(source=noise)
    velocities = {"independent": by(i_cfm(source=noise)), "optimal transport": by(ot)}
    made = torch.stack((source.train, ways(velocities["independent"], source.train)[-1]), 1)

    def again(velocity: Velocity, generator: torch.Generator) -> Tensor:
        x0, x1 = rows_of(made, generator).unbind(1)
        return Matching(pairing=Given(x0, x1))(velocity, x1, generator=generator)

    velocities["reflow"] = train(again, steps, velocities["independent"])
    picture(out, velocities, starts, data, ot)
    cost = wasserstein(starts, test) ** 2
    found = {}
    for name, velocity in velocities.items():
        way = ways(velocity, starts)
        found[name] = {
            "W2, one step": wasserstein(ways(velocity, starts, 1)[-1], test).item(),
            f"W2, {STEPS} steps": wasserstein(way[-1], test).item(),
            "straightness": straightness(way).mean().item(),
            "path energy": normalised_path_energy(way, cost).item(),
        }
        print(f"{name:18}", "  ".join(f"{what} {value:.3f}" for what, value in found[name].items()))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--out", type=Path, default=Path("tour.png"))
    options = parser.parse_args()
    main(options.steps, options.out)
