"""Generator matching on two moons: one training, sampled by the flow, by jumps, and by both at once."""

from __future__ import annotations

from pathlib import Path

import drawn
import torch

from pyflowk import datasets, metrics, zoo

STEPS = 1500


def main(steps: int, out: Path) -> dict[str, float]:
    """Train flow and jumps by one regression; the distance of samples from data by the share of jumps."""
    data = datasets.load("moons")
    model = drawn.fit(zoo.generator_matching((2,)), data, steps)
    with torch.no_grad():
        shares = {"flow": 0.0, "half of each": 0.5, "jumps": 1.0}
        samples = {name: model.sample(drawn.POINTS, share=share, steps=100) for name, share in shares.items()}
        drawn.clouds(out, {"data": data.test[: drawn.POINTS], **samples})
        test = data.test[: drawn.POINTS]
        return {f"energy distance, {name}": metrics.energy_distance(x, test).item() for name, x in samples.items()}


if __name__ == "__main__":
    drawn.run(main, "generators", STEPS)
