"""What the scripts of the gallery share: a short training, clouds of points side by side, and their command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from pyflowk.datasets import Dataset
from pyflowk.zoo import GenerativeModel

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the back end is chosen first

BLUE, ORANGE = "#0072b2", "#d55e00"
"""Two colours that everybody tells apart, on white and on black."""
BATCH, POINTS = 256, 2000
"""Events of a step, and how many are drawn and compared."""


def fit(model: GenerativeModel, data: Dataset, steps: int, rate: float = 3e-3) -> GenerativeModel:
    """Adam by the model's own loss; the model comes back in evaluation mode."""
    torch.manual_seed(0)
    model.initialize(data.take("train", slice(2 * BATCH))[0])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        x, _ = data.take("train", torch.randint(len(data.train), (BATCH,)))
        optimizer.zero_grad()
        model.loss(x).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        plan.step()
        model.after_step(step + 1)
    return model.eval()


def clouds(path: Path, parts: Mapping[str, Tensor], colour: str = BLUE) -> None:
    """A panel for each named cloud of points (N, 2)."""
    figure, axes = plt.subplots(1, len(parts), figsize=(3 * len(parts), 3.2), squeeze=False)
    for axis, (title, points) in zip(axes[0], parts.items(), strict=True):
        axis.scatter(*points.detach().T, s=1.5, color=ORANGE if title == "data" else colour, linewidths=0)
        low, high = torch.quantile(points.detach().float(), torch.tensor([0.005, 0.995]), 0)
        (left, bottom), (right, top) = low - 0.1 * (high - low), high + 0.1 * (high - low)  # a few lie far out
        axis.set(title=title, xticks=[], yticks=[], aspect="equal", xlim=(left, right), ylim=(bottom, top))
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def run(main: Callable[[int, Path], dict[str, float]], name: str, steps: int) -> None:
    """`python NAME.py --steps N --out NAME.png` draws, and prints the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--out", type=Path, default=Path(f"{name}.png"))
    options = parser.parse_args()
    for what, value in main(options.steps, options.out).items():
        print(f"{what:32} {value:8.3f}")
