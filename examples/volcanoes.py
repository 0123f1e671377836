"""Where volcanoes are, a density on the sphere by flow matching along geodesics: a minute on one core.

The 1,439 volcanoes of the last 12,000 years lie along seams of the plates. The flow learns them from uniform points of
the sphere; its density is judged on places that it has not seen, beside the uniform one and beside a mixture of that
and of equal von Mises-Fisher kernels around the training places, whose width and share the validation places choose.
`pip install --no-deps pyvolcans` brings the table; `pyflowk train flow_matching --data volcanoes` does the same.
"""

from __future__ import annotations

import argparse
import copy
import math

import torch
from torch import Tensor

from pyflowk import datasets, training, zoo


def kernel_log_prob(x: Tensor, places: Tensor, concentration: float, even: float) -> Tensor:
    """log of the mean of densities k / (4 pi sinh k) exp(k <x, y>) over the places y, with a share of the even one."""
    scale = math.log(concentration / (2 * math.pi)) - math.log1p(-math.exp(-2 * concentration))
    kernels = torch.logsumexp(concentration * (x @ places.T - 1), 1) - math.log(len(places)) + scale
    return torch.logaddexp(kernels + math.log1p(-even), torch.full_like(kernels, math.log(even / (4 * math.pi))))


def with_error(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def main(steps: int = 9000, seed: int = 0, data_dir: str | None = None) -> dict[str, tuple[float, float]]:
    data = datasets.load("volcanoes", seed=seed, data_dir=data_dir)
    train, valid, test = (data.take(part)[0] for part in ("train", "valid", "test"))
    torch.manual_seed(seed)
    model = zoo.flow_matching(data.space, steps=80)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    averaged, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = torch.randint(len(train), (512,), generator=generator)
        loss = model.loss(train[rows], None, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for slow, fast in zip(averaged.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, max(2e-3, 1 / (step + 1)))
    flow = training.log_prob(averaged, test).float()
    choices = [(10 * 2 ** (k / 2), share) for k in range(20) for share in (0.01, 0.02, 0.05, 0.1, 0.2)]
    best = max(choices, key=lambda choice: kernel_log_prob(valid, train, *choice).mean().item())
    kernels = kernel_log_prob(test, train, *best)
    found = {
        "uniform": (-math.log(4 * math.pi), 0.0),
        "kernels": with_error(kernels),
        "flow": with_error(flow),
        "flow less kernels, by place": with_error(flow - kernels),
    }
    print(f"log-likelihood of {len(test)} places, nats")
    for name, (mean, error) in found.items():
        print(f"{name:28s} {mean:6.2f} +- {error:.2f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", default=None, help="the folder of the table, if pyvolcans is not installed")
    main(**vars(parser.parse_args()))
