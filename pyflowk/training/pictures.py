"""samples.png and loss.png."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import torch
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # the back end is chosen first
from matplotlib.animation import PillowWriter

from ..zoo import Ability, GenerativeModel
from .threads import Threads

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
    path: Path,
    samples: Tensor,
    reference: Tensor | None,
    levels: int | None,
    columns: int | None = None,
    names: Sequence[str] = (),
) -> None:
    """Images as a grid of ``columns``; others beside the data, if there are any: points as scatter plots, vectors as
    histograms. ``names`` are those of the coordinates."""
    samples = samples.cpu()
    if levels is not None and samples.ndim == 4 and samples.shape[1] in (1, 3):
        grid = image_grid(samples, levels, columns)
        scale = max(1, round(800 / max(grid.shape[:2])))
        plt.imsave(path, grid.repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy())
        return
    clouds = {"data": reference.cpu().double().flatten(1)} if reference is not None else {}
    clouds["samples"] = samples.double().flatten(1)
    (_scatter if samples[0].numel() == 2 else _histograms)(path, clouds, names)


def _scatter(path: Path, clouds: dict[str, Tensor], names: Sequence[str]) -> None:
    """Points in the plane, in the window of the first cloud; equal scales unless one side is much the longer."""
    low, high = next(iter(clouds.values())).aminmax(dim=0)
    margin = 0.08 * (high - low) + 1e-6
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    aspect: Literal["equal", "auto"] = "equal" if 0.4 < (right - left) / (top - bottom) < 2.5 else "auto"
    figure, axes = plt.subplots(1, len(clouds), figsize=(5 * len(clouds), 5), sharex=True, sharey=True, squeeze=False)
    for axis, (title, points) in zip(axes.flat, clouds.items(), strict=True):
        axis.scatter(points[:, 0], points[:, 1], s=2, linewidths=0, alpha=0.6)
        axis.set(title=title, aspect=aspect, xlim=(left, right), ylim=(bottom, top))
        if names:
            axis.set_xlabel(names[0], parse_math=False)
            axis.set_ylabel(names[1], parse_math=False)
    _save(figure, path)


def _histograms(path: Path, clouds: dict[str, Tensor], names: Sequence[str]) -> None:
    """One for each coordinate, over the range of the first cloud without its thousandths."""
    first = next(iter(clouds.values()))
    shown = min(MARGINALS, first.shape[1])
    columns = math.ceil(math.sqrt(shown))
    figure, axes = plt.subplots(math.ceil(shown / columns), columns, figsize=(10, 10), squeeze=False)
    for i, axis in enumerate(axes.flat):
        if i >= shown:
            axis.axis("off")
            continue
        low, high = (float(np.quantile(first[:, i].numpy(), q)) for q in (0.001, 0.999))
        edges = np.histogram_bin_edges(first[:, i].numpy(), 50, (low, high))
        for name, points in clouds.items():  # densities of all points, of which none may lie in the range
            share = np.full(len(points), 1 / (len(points) * (edges[1] - edges[0])))
            axis.hist(points[:, i].numpy(), bins=edges, weights=share, histtype="step", label=name)
        axis.set_title(names[i] if names else f"dimension {i}", fontsize=8, parse_math=False)
    axes[0, 0].legend(fontsize=7)
    _save(figure, path)


@torch.no_grad()
def draw_trajectory(
    folder: Path,
    model: GenerativeModel,
    samples: int = 512,
    frames: int = 24,
    seed: int = 0,
    threads: Threads | None = None,
) -> Path:
    """How a model makes its samples in the plane: frames from noise to data, and all of them as a GIF.

    folder receives trajectory-00.png, ... and trajectory.gif, whose path is returned. Every frame has the samples at
    its time and, of a model that knows its marginals, their density and, as arrows, their velocity. `threads` is told
    of every frame. Cost: one trajectory, and the marginals of `frames` grids of 80 x 80 points.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def noise() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    times, geometry = [i / max(1, frames - 1) for i in range(frames)], model.space.geometry
    with threads or Threads() as threads:
        with threads.step():
            states = model.trajectory(samples, times, None, noise())
        ends = torch.cat([states[0], states[-1]])
        low, high = ends.quantile(0.005, 0) - 0.5, ends.quantile(0.995, 0) + 0.5
        centre, half = (low + high) / 2, (high - low).max() / 2
        low, high = centre - half, centre + half  # a square, so that nothing is stretched
        grids = [
            torch.cartesian_prod(*(torch.linspace(float(a), float(b), n) for a, b in zip(low, high))) for n in (80, 18)
        ]
        figure, axis = plt.subplots(figsize=(5, 5))
        writer = PillowWriter(fps=12)
        with writer.saving(figure, str(folder / "trajectory.gif"), dpi=100):
            for i, (time, x) in enumerate(zip(times, states)):
                axis.clear()
                if Ability.MARGINAL in model.abilities and (geometry is None or geometry.dim == 2):
                    with threads.step():
                        density = model.marginal(time, grids[0], None, noise()).log_prob.exp().reshape(80, 80)
                        arrows = model.marginal(time, grids[1], None, noise()).velocity
                    places = (g.reshape(80, 80).numpy() for g in grids[0].unbind(1))
                    axis.pcolormesh(*places, density.numpy(), cmap="magma")
                    axis.quiver(*grids[1].t().numpy(), *arrows.t().numpy(), color="tab:cyan", alpha=0.8)
                else:
                    axis.set_facecolor("black")
                axis.scatter(x[:, 0], x[:, 1], s=2, linewidths=0, color="white", alpha=0.6)
                axis.set(title=f"t = {time:.2f}", aspect="equal", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
                for _ in range(1 if i + 1 < frames else writer.fps):  # the data stay for a second
                    writer.grab_frame()
                figure.savefig(folder / f"trajectory-{i:02d}.png", dpi=100)
        plt.close(figure)
    return folder / "trajectory.gif"


def draw_loss(path: Path, rows: list[dict[str, float]], unit: str, level: float | None, label: str = "train") -> None:
    """Training and validation curves of log.csv; `level` is the Gaussian's value in the same unit.

    A training loss that is not in the unit, because regularisers are in it, is left out.
    """
    key = unit.replace("bits/", "bits_per_") if unit.startswith("bits/") else "loss"
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
