"""Posteriors by flow matching (FMPE) beside those by an autoregressive flow (NPE), some minutes on one core.

The simulator "two moons" of Greenberg et al., 2019, arXiv:1905.07488: theta in [-1, 1]^2, and an observation of two
numbers in which the sign of theta_1 + theta_2 is lost, so that each posterior is a pair of thin crescents. Both methods
see simulations alone; the exact posterior, which is known here, judges them: C2ST is 0.5 where nobody can tell samples
from exact ones, and calibration takes 400 observations at once.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from pyflowk import zoo
from pyflowk.metrics import c2st, calibration_error, posterior_ranks
from pyflowk.space import Context, Space
from pyflowk.zoo import GenerativeModel


def simulate(theta: Tensor, generator: torch.Generator) -> Tensor:
    """Observations (N, 2) of parameters (N, 2)."""
    angle = math.pi * (torch.rand(len(theta), generator=generator) - 0.5)
    radius = 0.1 + 0.01 * torch.randn(len(theta), generator=generator)
    crescent = torch.stack((radius * angle.cos() + 0.25, radius * angle.sin()), 1)
    a, b = theta.T
    return crescent + torch.stack((-(a + b).abs(), b - a), 1) / math.sqrt(2)


def exact_posterior(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Samples (count, 2) of the posterior of one observation (2,): noise is drawn anew and the rest solved for."""
    found = torch.zeros(0, 2)
    while len(found) < count:
        noise = simulate(torch.zeros(4 * count, 2), generator)
        total, difference = math.sqrt(2) * (noise[:, 0] - x[0]), math.sqrt(2) * (x[1] - noise[:, 1])
        total = total * torch.where(torch.rand(len(noise), generator=generator) < 0.5, -1.0, 1.0)
        theta = torch.stack((total - difference, total + difference), 1) / 2
        possible = (noise[:, 0] >= x[0]) & (theta.abs() <= 1).all(1)
        found = torch.cat((found, theta[possible]))
    return found[:count]


def fit(theta: Tensor, x: Tensor, *, system: str, steps: int, **options: object) -> GenerativeModel:
    """A posterior estimator: a conditional model of theta (N, D) given x (N, C)."""
    torch.manual_seed(0)
    model = zoo.create(system, Space((theta.shape[1],), context=Context("numbers", x.shape[1])), **options)
    model.initialize(theta[:512], x[:512])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 2e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps + 1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(len(theta), (256,), generator=generator)
        optimizer.zero_grad()
        model.loss(theta[rows], x[rows], generator).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        plan.step()
    return model.eval()


@torch.no_grad()
def judge(model: GenerativeModel, observed: int = 3, calibrated: int = 400) -> dict[str, float]:
    """C2ST against exact posteriors, the calibration error of many, and the density of true parameters."""
    generator = torch.Generator().manual_seed(2)
    theta = 2 * torch.rand(calibrated, 2, generator=generator) - 1
    x = simulate(theta, generator)
    accuracy = [
        c2st(model.sample(500, x[i : i + 1], generator), exact_posterior(x[i], 500, generator)).item()
        for i in range(observed)
    ]
    draws = torch.stack([model.sample(calibrated, x, generator) for _ in range(50)])  # of all observations at once
    return {
        "C2ST": sum(accuracy) / observed,
        "calibration error": calibration_error(posterior_ranks(draws, theta), 50).max().item(),
        "nats of true parameters": model.log_prob(theta, x, generator).mean().item(),
    }


def main(steps: int = 6000, simulations: int = 20_000) -> dict[str, dict[str, float]]:
    """Simulate, fit both and judge them; the figures by the name of the method."""
    generator = torch.Generator().manual_seed(0)
    theta = 2 * torch.rand(simulations, 2, generator=generator) - 1
    x = simulate(theta, generator)  # of unit scale already: standardise yours
    methods = {"FMPE": {"system": "flow_matching", "width": 128, "depth": 4}, "NPE": {"system": "maf", "width": 64}}
    found = {name: judge(fit(theta, x, steps=steps, **options)) for name, options in methods.items()}  # type: ignore[arg-type]
    for name, figures in found.items():
        print(f"{name:5}", "  ".join(f"{what} {value:.3f}" for what, value in figures.items()))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    main(parser.parse_args().steps)
