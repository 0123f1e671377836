"""A neural spline flow on a checkerboard, whose edges affine couplings blur, and one of its splines."""

from __future__ import annotations

from pathlib import Path

import drawn
import torch

from pyflowk import datasets, ops, zoo

STEPS = 1500


def main(steps: int, out: Path) -> dict[str, float]:
    """Train by maximum likelihood, draw samples and a spline of eight bins; the density of test data."""
    data = datasets.load("checkerboard")
    model = drawn.fit(zoo.nsf((2,)), data, steps)
    x = torch.linspace(-4, 4, drawn.POINTS)[:, None]
    params = torch.randn(1, ops.spline_params(8), generator=torch.Generator().manual_seed(1)).expand(len(x), -1)
    y, _ = ops.rq_spline(x, 2 * params, mask="all", interval=(-3.0, 3.0), bins=8)
    with torch.no_grad():
        spline = torch.cat((x, y), 1)
        drawn.clouds(
            out, {"data": data.test[: drawn.POINTS], "samples": model.sample(drawn.POINTS), "a spline": spline}
        )
        return {"nats": model.log_prob(data.test[: drawn.POINTS]).mean().item()}


if __name__ == "__main__":
    drawn.run(main, "splines", STEPS)
