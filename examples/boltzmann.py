"""Boltzmann densities exp(-U) in two dimensions by a neural spline flow, half a minute on one core.

A double well has two basins, and a flow that starts in one of them may stay there: the reverse KL divergence asks for
no more. So a wider proposal shows both to it first, by the forward divergence on weighted samples; the reverse
one then sharpens. A ring has no basins, but a hole. Both free energies, - log Z, are known from an integral.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyflowk import zoo
from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.objectives import effective_sample_size, forward_kl, importance_sample, log_evidence, reverse_kl
from pyflowk.transforms import Scale


def double_well(x: Tensor) -> Tensor:
    """-U: basins at -2 and 2, the right one deeper, a barrier of four between them."""
    return -0.25 * (x[:, 0].square() - 4).square() + 0.3 * x[:, 0] - 0.5 * x[:, 1].square()


def ring(x: Tensor) -> Tensor:
    """-U: a ring of radius two."""
    return -0.5 * ((x.norm(dim=1) - 2) / 0.3).square()


TARGETS: dict[str, Callable[[Tensor], Tensor]] = {"double well": double_well, "ring": ring}


def exact(target: Callable[[Tensor], Tensor]) -> float:
    """log Z by the trapezium rule."""
    line = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    density = target(torch.cartesian_prod(line, line))
    return float(torch.logsumexp(density, 0) + 2 * math.log(0.01))


def fit(target: Callable[[Tensor], Tensor], steps: int, samples: int = 256) -> Flow:
    """A third of the steps by the forward divergence from a wide Gaussian, the rest by the reverse one."""
    torch.manual_seed(0)
    flow = zoo.nsf((2,), couplings=4, width=64, bins=8).flow
    wide = Flow(DiagonalGaussian((2,)), Scale(1 / 3))
    optimizer = torch.optim.Adam(flow.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad()
        if step < steps // 3:
            loss = forward_kl(flow, target, samples, proposal=wide, reduction="mean")
        else:
            loss = reverse_kl(flow, target, samples, stick_the_landing=True, reduction="mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    return flow


def main(steps: int = 600) -> dict[str, dict[str, float]]:
    """Fit and print; the figures by target and name."""
    results = {}
    for name, target in TARGETS.items():
        x, log_weights = importance_sample(fit(target, steps), target, 20_000)
        results[name] = {
            "log Z, exact": exact(target),
            "log Z, weighted samples": log_evidence(log_weights).item(),
            "log Z, bound": log_weights.mean().item(),
            "right of the middle, %": 100 * (x[:, 0] > 0).double().mean().item(),
            "effective samples, %": 100 * effective_sample_size(log_weights).item() / len(x),
        }
        print(name, *(f"  {what:24} {value:8.3f}" for what, value in results[name].items()), sep="\n")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    main(parser.parse_args().steps)
