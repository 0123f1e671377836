"""samples.png and loss.png."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # the back end is chosen first
from matplotlib.animation import PillowWriter

from ..flows import Base
from ..transforms import Continuous

MARGINALS = 16
"""Dimensions of a table whose histograms are drawn."""


def image_grid(x: Tensor, levels: int, columns: int | None = None) -> Tensor:
    """Integer images (N, C, H, W), C 1 or 3, side by side in a grid (H', W', 3) in 0..1, nearly square by default.

    >>> import torch
    >>> from pyflowk.training.pictures import image_grid
    >>> image_grid(torch.zeros(4, 1, 8, 8), 17).shape
    torch.Size([19, 19, 3])
    """
    count, _, height, width = x.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = torch.ones(3, rows * (height + 1) + 1, columns * (width + 1) + 1)
    for i, picture in enumerate((x / (levels - 1)).clamp(0, 1).expand(count, 3, height, width)):
        top, left = 1 + i // columns * (height + 1), 1 + i % columns * (width + 1)
        grid[:, top : top + height, left : left + width] = picture
    return grid.permute(1, 2, 0)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", dpi=150)
    plt.close(figure)


def draw_samples(
    path: Path, samples: Tensor, reference: Tensor, levels: int | None, columns: int | None = None
) -> None:
    """Images as a grid of ``columns``; others beside the data: points as a scatter plot, vectors as histograms."""
    samples, reference = samples.float().cpu(), reference.float().cpu()
    if levels is not None and samples.ndim == 4 and samples.shape[1] in (1, 3):
        grid = image_grid(samples, levels, columns)
        scale = max(1, round(800 / max(grid.shape[:2])))
        plt.imsave(path, grid.repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy())
        return
    samples, reference = samples.flatten(1), reference.flatten(1)
    if samples.shape[1] == 2:
        (left, bottom), (right, top) = (reference.amin(0) - 0.5).tolist(), (reference.amax(0) + 0.5).tolist()
        figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharex=True, sharey=True)
        for axis, points, title in zip(axes, (reference, samples), ("data", "samples"), strict=True):
            axis.scatter(points[:, 0], points[:, 1], s=2, linewidths=0, alpha=0.6)
            axis.set(title=title, aspect="equal", xlim=(left, right), ylim=(bottom, top))
        return _save(figure, path)
    shown = min(MARGINALS, samples.shape[1])
    columns = math.ceil(math.sqrt(shown))
    figure, axes = plt.subplots(math.ceil(shown / columns), columns, figsize=(10, 10), squeeze=False)
    for i, axis in enumerate(axes.flat):
        if i >= shown:
            axis.axis("off")
            continue
        low, high = reference[:, i].quantile(0.001).item(), reference[:, i].quantile(0.999).item()
        for points, name in ((reference, "data"), (samples, "samples")):
            axis.hist(points[:, i].numpy(), bins=50, range=(low, high), density=True, histtype="step", label=name)
        axis.set_title(f"dimension {i}", fontsize=8)
    axes[0, 0].legend(fontsize=7)
    _save(figure, path)


@torch.no_grad()
def draw_trajectory(
    folder: Path, flow: Continuous, base: Base, samples: int = 512, frames: int = 24, seed: int = 0
) -> Path:
    """How a continuous flow in the plane makes its samples: frames from noise to data, and all of them as a GIF.

    folder receives trajectory-00.png, ... and trajectory.gif, whose path is returned. Every frame has the density at
    its time t (the base's, carried there), the field as arrows and the samples, in the coordinates in which the flow
    works. Cost: `frames` solves over a grid of 80 x 80 points.
    """
    folder.mkdir(parents=True, exist_ok=True)
    x = base.sample(samples, generator=torch.Generator().manual_seed(seed))
    ends = torch.cat([x, flow.move(x, 0.0, 1.0)])
    low, high = ends.quantile(0.005, 0) - 0.5, ends.quantile(0.995, 0) + 0.5
    centre, half = (low + high) / 2, (high - low).max() / 2
    low, high = centre - half, centre + half  # a square, so that nothing is stretched
    grids = [
        torch.cartesian_prod(*(torch.linspace(float(a), float(b), n) for a, b in zip(low, high))) for n in (80, 18)
    ]
    figure, axis = plt.subplots(figsize=(5, 5))
    writer = PillowWriter(fps=12)
    with writer.saving(figure, str(folder / "trajectory.gif"), dpi=100):
        for i in range(frames):
            t = i / max(1, frames - 1)
            noise, ladj = flow.transport(grids[0], t, 0.0, generator=torch.Generator().manual_seed(seed))
            density = (base.log_prob(noise) + ladj).exp().reshape(80, 80)
            arrows = flow.field(t, grids[1], None)
            axis.clear()
            axis.pcolormesh(*(g.reshape(80, 80).numpy() for g in grids[0].unbind(1)), density.numpy(), cmap="magma")
            axis.scatter(x[:, 0], x[:, 1], s=2, linewidths=0, color="white", alpha=0.6)
            axis.quiver(*grids[1].t().numpy(), *arrows.t().numpy(), color="tab:cyan", alpha=0.8)
            axis.set(title=f"t = {t:.2f}", aspect="equal", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
            for _ in range(1 if i + 1 < frames else writer.fps):  # the data stay for a second
                writer.grab_frame()
            figure.savefig(folder / f"trajectory-{i:02d}.png", dpi=100)
            x = flow.move(x, t, min(1.0, (i + 1) / max(1, frames - 1)))
    plt.close(figure)
    return folder / "trajectory.gif"


def draw_loss(path: Path, rows: list[dict[str, float]], unit: str, level: float | None, label: str = "train") -> None:
    """Training and validation curves of log.csv; `level` is the Gaussian's value in the same unit.

    A training loss that is not in the unit, because regularisers are in it, is left out.
    """
    key = "bits_per_dim" if unit == "bits/dim" else "loss"
    figure, axis = plt.subplots(figsize=(7, 4.5))
    train = [(r["step"], r[key]) for r in rows if key in r]
    if train:
        axis.plot(*zip(*train, strict=True), label=label, linewidth=1)
    valid = [(r["step"], r[f"valid_{key}"]) for r in rows if f"valid_{key}" in r]
    if valid:
        axis.plot(*zip(*valid, strict=True), label="validation, averaged weights", linewidth=2)
    if level is not None:
        axis.axhline(level, color="grey", linestyle="--", label="one full Gaussian (test)")
    values = sorted(value for _, value in train)
    if values:  # the first steps would squeeze everything else into a line
        top = values[int(0.95 * (len(values) - 1))]
        low = min([values[0], *(v for _, v in valid)] + ([level] if level is not None else []))
        high = max([top, *(v for _, v in valid[1:])] + ([level] if level is not None else []))
        axis.set_ylim(low - 0.05 * (high - low + 1e-6), high + 0.1 * (high - low + 1e-6))
    axis.set(xlabel="step", ylabel=unit)
    axis.legend()
    _save(figure, path)
