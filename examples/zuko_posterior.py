"""A posterior from simulations by a flow of zuko, accelerated in one line: `pip install zuko`.

The simulator sums functions of eight angles and adds noise; the flow learns p(angles | what is seen) from simulated
pairs, as simulation-based inference does. The accelerated flow has the parameters of the other: one is trained, and
then each draws the same posterior samples from the same noise.
"""

from __future__ import annotations

import argparse
import time

import torch
import zuko
from torch import Tensor

from pyflowk.compat import accelerate

ANGLES = 8


def simulate(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Angles (n, 8) from the prior N(0, 1) and what is seen, (n, 4)."""
    theta = torch.randn(n, ANGLES, generator=generator)
    seen = torch.stack([theta.sin().sum(1), theta.cos().sum(1), theta[:, 0] * theta[:, 1], theta[:, 2:].sum(1)], 1)
    return theta, seen + 0.3 * torch.randn(n, 4, generator=generator)


def main(steps: int = 1500, samples: int = 10_000) -> dict[str, float]:
    """Train, draw and print; the figures by name."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    flow = zuko.flows.MAF(ANGLES, context=4, transforms=5, hidden_features=(64, 64))
    fast = accelerate(flow)
    print(fast.acceleration)
    optimizer = torch.optim.Adam(flow.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        theta, seen = simulate(256, generator)
        optimizer.zero_grad()
        (-fast(seen).log_prob(theta).mean()).backward()
        optimizer.step()
        schedule.step()
    theta, seen = simulate(5000, generator)
    found = {}
    with torch.no_grad():
        found["nats per test pair"] = fast(seen).log_prob(theta).mean().item()
        found["nats under the prior"] = torch.distributions.Normal(0, 1).log_prob(theta).sum(1).mean().item()
        draws = {}
        for name, which in {"zuko": flow, "accelerated": fast}.items():
            which(seen[0]).sample((10,))
            torch.manual_seed(2)
            start = time.process_time()
            draws[name] = which(seen[0]).sample((samples,))
            found[f"seconds for {samples} samples, {name}"] = time.process_time() - start
    found["largest difference of the samples"] = (draws["zuko"] - draws["accelerated"]).abs().max().item()
    for name, value in found.items():
        print(f"{name:40} {value:10.3g}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    main(parser.parse_args().steps)
