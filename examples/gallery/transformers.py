"""TARFlow on the digits: causal transformers with an exact likelihood, and the step of denoising behind its samples."""

from __future__ import annotations

from pathlib import Path

import drawn
import torch

from pyflowk import datasets, metrics, zoo

STEPS = 300


def main(steps: int, out: Path) -> dict[str, float]:
    """Train with noise on the pixels, draw samples before and behind the denoising; bits per dimension of test data."""
    data = datasets.load("digits")
    model = drawn.fit(zoo.tarflow((1, 8, 8), levels=17, noise=0.1, width=64, blocks=4, depth=1), data, steps, 2e-3)
    with torch.no_grad():
        seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
        raw, clean = (model.sample(12, generator=g, denoise=d) for g, d in zip(seeds, (False, True), strict=True))
        rows = {"data": data.test[:12], "samples": raw, "denoised": clean}
        figure, axes = drawn.plt.subplots(len(rows), 1, figsize=(9, 2.6))
        for axis, (title, x) in zip(axes, rows.items(), strict=True):
            axis.imshow(torch.cat([*x[:, 0]], 1), cmap="gray_r", vmin=0, vmax=16)
            axis.set(xticks=[], yticks=[], ylabel=title)
        drawn.save(figure, out)
        bits = metrics.bits_per_dim(model.log_prob(data.test[: drawn.POINTS]), (1, 8, 8))
        return {"bits/dim": bits.mean().item()}


if __name__ == "__main__":
    drawn.run(main, "transformers", STEPS)
