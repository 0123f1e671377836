"""A posterior by an inverse autoregressive flow: the eight schools of Rubin (1981), half a minute on one core.

School j's measured effect is y_j ~ N(mu + tau eta_j, sigma_j) with eta_j ~ N(0, 1), mu ~ N(0, 5), tau ~ half-Cauchy(5).
The flow learns the ten numbers (mu, log tau, eta) by the reverse KL divergence. With eta integrated out by hand the
evidence is an integral over two numbers, which tells how good the answer is.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from pyflowk import zoo
from pyflowk.flows import Flow
from pyflowk.objectives import effective_sample_size, importance_sample, log_evidence, reverse_kl

EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def log_normal(x: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    std = torch.as_tensor(std)
    return -0.5 * ((x - mean) / std).square() - torch.log(std) - 0.5 * math.log(2 * math.pi)


def log_prior(mu: Tensor, log_tau: Tensor) -> Tensor:
    """Of mu and log tau: the half-Cauchy's density times tau."""
    half_cauchy = math.log(2 / (5 * math.pi)) - torch.log1p((log_tau.exp() / 5).square())
    return log_normal(mu, 0, 5) + half_cauchy + log_tau


def log_joint(x: Tensor) -> Tensor:
    """log p(y, mu, log tau, eta), (n, 10) -> (n,)."""
    mu, log_tau, eta = x[:, 0], x[:, 1], x[:, 2:]
    effect = mu[:, None] + log_tau.exp()[:, None] * eta
    likelihood = log_normal(EFFECT, effect, ERROR).sum(1)
    return log_prior(mu, log_tau) + log_normal(eta, 0, 1).sum(1) + likelihood


def exact() -> tuple[float, float]:
    """log p(y) and the posterior mean of mu, by the trapezium rule over mu and log tau."""
    mu, log_tau = (
        t.double() for t in torch.meshgrid(torch.linspace(-40, 50, 901), torch.linspace(-12, 6, 721), indexing="ij")
    )
    std = (log_tau.exp()[..., None].square() + ERROR.square()).sqrt()
    density = log_prior(mu, log_tau) + log_normal(EFFECT, mu[..., None], std).sum(-1)
    total = torch.logsumexp(density.flatten(), 0)
    return float(total + math.log(0.1 * 0.025)), float((mu * (density - total).exp()).sum())


def fit(steps: int, samples: int = 128) -> Flow:
    """An IAF that minimises the reverse KL divergence."""
    torch.manual_seed(0)
    flow = zoo.iaf((10,), width=32, blocks=4, normalization="none").flow
    optimizer = torch.optim.Adam(flow.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        reverse_kl(flow, log_joint, samples, stick_the_landing=True, reduction="mean").backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    return flow


def main(steps: int = 1000) -> dict[str, float]:
    """Fit and print; the figures by name."""
    flow = fit(steps)
    x, log_weights = importance_sample(flow, log_joint, 20_000)
    evidence, mean = exact()
    found = {
        "log p(y), exact": evidence,
        "log p(y), weighted samples": log_evidence(log_weights).item(),
        "ELBO": log_weights.mean().item(),
        "mean of mu, exact": mean,
        "mean of mu, weighted samples": float(torch.softmax(log_weights, 0) @ x[:, 0]),
        "effective samples, %": 100 * effective_sample_size(log_weights).item() / len(x),
    }
    for name, value in found.items():
        print(f"{name:30} {value:8.3f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    main(parser.parse_args().steps)
