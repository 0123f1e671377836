"""FFJORD on an S-curve: one differential equation takes noise to data, trained by likelihood."""

from __future__ import annotations

from pathlib import Path

import drawn
import torch

from pyflowk import datasets, zoo

STEPS = 400


def main(steps: int, out: Path) -> dict[str, float]:
    """Train, and look at samples on their way; the density of test data."""
    data, times = datasets.load("scurve"), [0.0, 0.4, 0.7, 1.0]
    model = drawn.fit(zoo.ffjord((2,)), data, steps)
    with torch.no_grad():
        way = model.trajectory(drawn.POINTS, times)
        drawn.clouds(
            out, {"data": data.test[: drawn.POINTS], **{f"time {t}": x for t, x in zip(times, way, strict=True)}}
        )
        return {"nats": model.log_prob(data.test[: drawn.POINTS]).mean().item()}


if __name__ == "__main__":
    drawn.run(main, "continuous", STEPS)
