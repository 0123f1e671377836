"""Flow matching on a pinwheel: pairs by optimal transport within each batch, then the ways that samples take."""

from __future__ import annotations

from pathlib import Path

import drawn
import torch

from pyflowk import datasets, metrics, zoo

STEPS = 2500


def main(steps: int, out: Path) -> dict[str, float]:
    """Train by regression on velocities, draw ways and samples; how straight ways are, and how near samples come."""
    data = datasets.load("pinwheel")
    model = drawn.fit(zoo.flow_matching((2,), pairing="optimal_transport"), data, steps)
    with torch.no_grad():
        way = model.trajectory(drawn.POINTS, torch.linspace(0, 1, 21).tolist())
        few = model.sample(drawn.POINTS, method="heun2", steps=4)
        parts = {
            "data": data.test[: drawn.POINTS],
            "ways": way[:, :150].flatten(0, 1),
            "samples": way[-1],
            "four steps": few,
        }
        drawn.clouds(out, parts)
        return {
            "straightness (0 is straight)": metrics.straightness(way).mean().item(),
            "energy distance, samples": metrics.energy_distance(way[-1], data.test[: drawn.POINTS]).item(),
            "energy distance, four steps": metrics.energy_distance(few, data.test[: drawn.POINTS]).item(),
        }


if __name__ == "__main__":
    drawn.run(main, "matching", STEPS)
