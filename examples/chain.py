"""A chain of eight particles in double wells, exp(-U), by a TARFlow with importance weights, half a minute on one core.

Each particle is a token, drawn given those before it. The flow learns from walkers that know U alone and are stopped
early; the weights exp(-U) / q of its own samples then take the error out of averages and give - log Z, which is known
here from an integral, particle after particle.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from pyflowk import zoo
from pyflowk.objectives import effective_sample_size, importance_sample, log_evidence
from pyflowk.zoo import TarFlow

PARTICLES, WELL, SPRING = 8, 2.0, 1.5


def inside(x: Tensor) -> Tensor:
    """-U of one particle by itself: basins at -1 and 1."""
    return -WELL * (x.square() - 1).square()


def target(x: Tensor) -> Tensor:
    """-U of chains (B, particles), whose neighbours are bound to each other by springs."""
    return inside(x).sum(1) - 0.5 * SPRING * x.diff(dim=1).square().sum(1)


def exact() -> tuple[float, float]:
    """log Z, and how often both ends are in one basin, by the trapezium rule from end to end."""
    line = torch.linspace(-3, 3, 601, dtype=torch.float64)
    step = torch.exp(inside(line) - 0.5 * SPRING * (line[:, None] - line).square()) * (line[1] - line[0])
    mass = torch.diag(torch.exp(inside(line)))  # of the first particle in the first place, and all up to now
    for _ in range(PARTICLES - 1):
        mass = mass @ step
    same = (line[:, None] * line > 0).double() + 0.5 * (line[:, None] * line == 0)
    return float(torch.log(mass.sum() * (line[1] - line[0]))), float((mass * same).sum() / mass.sum())


def walk(walkers: int, sweeps: int, generator: torch.Generator) -> Tensor:
    """Metropolis: every second particle at a time, from chains that lie in either basin."""
    x = torch.randint(0, 2, (walkers, 1), generator=generator) * 2.0 - 1 + torch.zeros(walkers, PARTICLES)
    odd = torch.arange(PARTICLES) % 2 == 1
    for sweep in range(2 * sweeps):
        moved = x + 0.6 * torch.randn(x.shape, generator=generator) * (odd if sweep % 2 else ~odd)
        gain = inside(moved) - inside(x)
        for shift in (1, -1):
            near, beside = x.roll(shift, 1), torch.ones(PARTICLES)
            beside[0 if shift == 1 else -1] = 0  # the ends have one neighbour
            gain = gain - 0.5 * SPRING * beside * ((moved - near).square() - (x - near).square())
        x = torch.where(torch.rand(x.shape, generator=generator).log() < gain, moved, x)
    return x


def fit(x: Tensor, steps: int) -> TarFlow:
    """By maximum likelihood."""
    torch.manual_seed(0)
    model = zoo.tarflow((PARTICLES,), blocks=4, width=32, depth=1, patch=1)
    model.initialize(x)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(x[torch.randint(len(x), (256,))]).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def main(steps: int = 600, samples: int = 20_000) -> dict[str, float]:
    """Fit, weigh and print; the figures by name."""
    x = walk(samples, 30, torch.Generator().manual_seed(0))
    drawn, log_weights = importance_sample(fit(x, steps).flow, target, samples)
    weights = torch.softmax(log_weights.double(), 0)
    log_z, same = exact()

    def ends(chains: Tensor) -> Tensor:
        return (chains[:, 0] * chains[:, -1] > 0).double()

    results = {
        "log Z, exact": log_z,
        "log Z, weighted samples": log_evidence(log_weights).item(),
        "log Z, bound": log_weights.mean().item(),
        "both ends in one basin, exact": same,
        "both ends in one basin, weighted": float((weights * ends(drawn)).sum()),
        "both ends in one basin, walkers": ends(x).mean().item(),
        "effective samples, %": 100 * effective_sample_size(log_weights).item() / samples,
    }
    print(*(f"{what:34} {value:8.3f}" for what, value in results.items()), sep="\n")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    main(parser.parse_args().steps)
