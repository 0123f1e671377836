"""RealNVP on two moons: data, the noise that it makes of them, and samples, which go the same way back."""

from __future__ import annotations

from pathlib import Path

import drawn
import torch

from pyflowk import datasets, zoo

STEPS = 1500


def main(steps: int, out: Path) -> dict[str, float]:
    """Train by maximum likelihood, draw both directions; the density of test data, and how exact the way back is."""
    data = datasets.load("moons")
    model = drawn.fit(zoo.realnvp((2,), couplings=8), data, steps)
    with torch.no_grad():
        x = data.test[: drawn.POINTS]
        z = model.encode(x)
        drawn.clouds(out, {"data": x, "their noise": z, "samples": model.sample(drawn.POINTS)})
        return {"nats": model.log_prob(x).mean().item(), "largest error of x": (model.decode(z) - x).abs().max().item()}


if __name__ == "__main__":
    drawn.run(main, "couplings", STEPS)
