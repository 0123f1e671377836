"""MAF on a pinwheel: density in one pass of its networks, and samples in one pass, too, where others take D."""

from __future__ import annotations

from pathlib import Path

import drawn
import torch

from pyflowk import datasets, zoo

STEPS = 1500


def main(steps: int, out: Path) -> dict[str, float]:
    """Train by maximum likelihood, draw samples cold and warm; the density of test data."""
    data = datasets.load("pinwheel")
    model = drawn.fit(zoo.maf((2,)), data, steps)
    with torch.no_grad():
        cold, warm = (model.sample(drawn.POINTS, temperature=t) for t in (0.5, 1.0))
        drawn.clouds(out, {"data": data.test[: drawn.POINTS], "samples": warm, "temperature 0.5": cold})
        return {"nats": model.log_prob(data.test[: drawn.POINTS]).mean().item()}


if __name__ == "__main__":
    drawn.run(main, "autoregressive", STEPS)
