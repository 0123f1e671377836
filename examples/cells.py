"""Cells between two days, one of whose lineages grows: a velocity from the first day to the last, half a minute.

Cells are measured by being destroyed, so that nobody knows which cell of the last day came of which of the first. Pairs
of optimal transport are a guess; but where one lineage has divided more often than the other, exact transport must take
cells of the one for ancestors of the other. Unbalanced transport pays for mass that appears or goes instead. Its plan
weighs a lineage by the geometric mean of its shares of both days, which is its share half way if it grows evenly.

A day between the two is held out: W2 says how far from it the cells are that were moved there. Cells are simulated, or
those of an AnnData file: ``--h5ad FILE --time-key day``, its principal components on its first, middle and last day.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from torch import Tensor

from pyflowk.distributions import Empirical
from pyflowk.metrics import wasserstein
from pyflowk.nets import MLPField
from pyflowk.objectives import ot_cfm
from pyflowk.paths import OptimalTransport, Pairing, Sinkhorn
from pyflowk.solvers import Fixed, odeint

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the back end is chosen first


class Days(NamedTuple):
    """Cells (N, D) of three days, and when the middle one is between the first, 0, and the last, 1."""

    first: Tensor
    middle: Tensor
    last: Tensor
    time: float


def simulate(count: int, time: float, generator: torch.Generator) -> Tensor:
    """Cells (count, 2) of two lineages: equally many at time 0, four to one at time 1, and farther apart."""
    odds = 4**time
    grown = torch.rand(count, generator=generator) < odds / (1 + odds)
    side = torch.where(grown, 1.0, -1.0)
    centre = torch.stack((torch.full((count,), 4 * time), side * (1 + time)), 1)
    return centre + (0.3 + 0.2 * time) * torch.randn(count, 2, generator=generator)


def read(path: Path, key: str, components: int = 5) -> Days:
    """The first, middle and last day of ``obs[key]``, by its first principal components, at unit scale."""
    import anndata

    table = anndata.read_h5ad(path)
    if key not in table.obs:
        raise ValueError(f"--time-key: expected a column of obs, one of {', '.join(table.obs)}; got {key!r}")
    days = torch.tensor(table.obs[key].astype(float).to_numpy())
    if "X_pca" in table.obsm:
        x = torch.tensor(table.obsm["X_pca"][:, :components]).float()
    else:
        dense = table.X if not hasattr(table.X, "toarray") else table.X.toarray()
        genes = torch.tensor(dense).float().log1p()
        genes = genes - genes.mean(0)
        x = genes @ torch.pca_lowrank(genes, q=components, center=False)[2]
    known = days.unique()
    if len(known) < 3:
        raise ValueError(f"{path}: expected three days or more in obs[{key!r}], got {known.tolist()}")
    chosen = known[[0, len(known) // 2, -1]]
    first, middle, last = (x[days == day] / x[days == known[0]].std() for day in chosen)
    return Days(first, middle, last, ((chosen[1] - chosen[0]) / (chosen[2] - chosen[0])).item())


def rows_of(x: Tensor, generator: torch.Generator, count: int = 256) -> Tensor:
    return x[torch.randint(len(x), (count,), generator=generator)]


def train(days: Days, pairing: Pairing, steps: int) -> MLPField:
    """A velocity that leads from the first day to the last."""
    torch.manual_seed(0)
    velocity, generator = MLPField(days.first.shape[1], 64, 2), torch.Generator().manual_seed(0)
    objective = ot_cfm(pairing=pairing, source=Empirical(days.first))
    optimizer = torch.optim.Adam(velocity.parameters(), 5e-3)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(velocity, rows_of(days.last, generator), generator=generator, reduction="mean").backward()
        optimizer.step()
        plan.step()
    return velocity


@torch.no_grad()
def tracks(velocity: MLPField, starts: Tensor, time: float) -> Tensor:
    """The ways (T, N, D) from the first day to ``time``."""
    return odeint(velocity, starts, torch.linspace(0, time, 21), method="rk4", stepping=Fixed(1))


def picture(path: Path, ways: dict[str, Tensor], days: Days) -> None:
    """The ways of cells to the middle day, between the cells of all days."""
    figure, axes = plt.subplots(1, len(ways), figsize=(6 * len(ways), 4.5), sharex=True, sharey=True)
    for axis, (name, way) in zip(axes, ways.items(), strict=True):
        for x, colour in ((days.first, "0.75"), (days.last, "0.75"), (days.middle, "C1")):
            axis.scatter(*x[:400, :2].T, s=4, color=colour)
        axis.plot(*way[:, :200, :2].permute(2, 0, 1), color="C0", lw=0.4)
        axis.scatter(*way[-1, :400, :2].T, s=4, color="C0")
        axis.set_title(f"{name}: held out (orange), moved there (blue)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(
    steps: int = 1500, days: Days | None = None, reg_m: float = 5.0, out: Path = Path("cells.png")
) -> dict[str, float]:
    """Train with both pairings, draw the picture and print the distances from the held-out day; these by name."""
    generator = torch.Generator().manual_seed(0)
    days = days or Days(*(simulate(2000, time, generator) for time in (0.0, 0.5, 1.0)), 0.5)
    count = min(1000, *(len(x) // 2 for x in days[:3]))
    first, middle, last = (rows_of(x, generator, count) for x in days[:3])
    found = {
        "W2, the day itself, two samples": wasserstein(rows_of(days.middle, generator, count), middle).item(),
        "W2, first day": wasserstein(first, middle).item(),
        "W2, last day": wasserstein(last, middle).item(),
    }
    ways = {}
    for name, pairing in {"exact": OptimalTransport(), "unbalanced": Sinkhorn(0.2, reg_m=reg_m)}.items():
        starts = pairing(first, last, generator=generator)[0]  # by the mass that the plan moves
        ways[name] = tracks(train(days, pairing, steps), starts, days.time)
        found[f"W2, {name} transport"] = wasserstein(ways[name][-1], middle).item()
    picture(out, ways, days)
    for name, value in found.items():
        print(f"{name:32} {value:.3f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--h5ad", type=Path)
    parser.add_argument("--time-key", default="day")
    parser.add_argument("--reg-m", type=float, default=5.0, help="the price of mass that appears or goes")
    parser.add_argument("--out", type=Path, default=Path("cells.png"))
    options = parser.parse_args()
    cells = read(options.h5ad, options.time_key) if options.h5ad else None
    main(options.steps, cells, options.reg_m, options.out)
