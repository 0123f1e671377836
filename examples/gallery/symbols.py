"""A discrete flow on pairs of symbols, the cells of a grid over two moons, by jumps from a mask."""

from __future__ import annotations

from pathlib import Path

import drawn
import torch

from pyflowk import datasets, zoo
from pyflowk.datasets import Dataset, split
from pyflowk.space import Space

STEPS, CELLS = 800, 48


def cells() -> Dataset:
    """Two moons, each coordinate a symbol of CELLS."""
    x = datasets.load("moons").train
    low, high = x.amin(0), x.amax(0)
    places = ((x - low) / (high - low) * CELLS).long().clamp(0, CELLS - 1)
    return split("cells", Space((2,), symbols=CELLS), places, seed=0)


def main(steps: int, out: Path) -> dict[str, float]:
    """Train on cross-entropies, draw with few and many steps; how often samples fall into cells that data fall into."""
    data = cells()
    model = drawn.fit(zoo.discrete_flow(data.space, width=64, depth=2), data, steps)
    with torch.no_grad():
        samples = {f"{n} step{'s' * (n > 1)}": model.sample(drawn.POINTS, steps=n) for n in (1, 4, 32)}
    blur = {title: x + torch.rand(len(x), 2) for title, x in {"data": data.test[: drawn.POINTS], **samples}.items()}
    drawn.clouds(out, blur)
    taken = torch.zeros(CELLS, CELLS, dtype=torch.bool)
    taken[tuple(data.train.T)] = True
    return {f"in cells of the data, {n}": taken[tuple(x.T)].double().mean().item() for n, x in samples.items()}


if __name__ == "__main__":
    drawn.run(main, "symbols", STEPS)
