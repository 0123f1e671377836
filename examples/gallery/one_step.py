"""MeanFlow on eight Gaussians: samples in one evaluation of the network, or in two, or four."""

from __future__ import annotations

from pathlib import Path

import drawn
import torch

from pyflowk import datasets, metrics, zoo

STEPS = 2500


def main(steps: int, out: Path) -> dict[str, float]:
    """Train by the identity of average velocities; the distance of samples from data by the number of steps."""
    data = datasets.load("8gaussians")
    model = drawn.fit(zoo.mean_flow((2,)), data, steps)
    with torch.no_grad():
        samples = {f"{n} step{'s' * (n > 1)}": model.sample(drawn.POINTS, steps=n) for n in (1, 2, 4)}
        drawn.clouds(out, {"data": data.test[: drawn.POINTS], **samples})
        test = data.test[: drawn.POINTS]
        return {f"energy distance, {n}": metrics.energy_distance(x, test).item() for n, x in samples.items()}


if __name__ == "__main__":
    drawn.run(main, "one_step", STEPS)
