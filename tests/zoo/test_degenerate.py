"""Data-dependent layers are set from whatever comes first: the layers must be usable afterwards."""

from __future__ import annotations

import math

import pytest
import torch

from pyflowk import zoo

NORMS = [(name, {}) for name in zoo.names() if "real" in zoo.takes(name)] + [("maf", {"normalization": "batchnorm"})]


def rare(rows: int) -> torch.Tensor:
    """Five columns: three ordinary ones, an indicator that is never set, and a constant."""
    x = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0))
    x[:, 2], x[:, 3] = 0, 7.1
    return x


@pytest.mark.parametrize("name, options", NORMS)
def test_a_batch_that_says_little_leaves_a_usable_model(name: str, options: dict[str, str]) -> None:
    x = rare(256)
    torch.manual_seed(0)
    model = zoo.create(name, (5,), **options)
    model.initialize(x)
    assert model.loss(x).mean().abs() < (20 if model.loss_unit == "nats" else math.inf)
    later = x.clone()
    later[::50, 2] = 10.0  # the indicator, once it is set
    loss = model.loss(later)
    assert loss.mean() < 1e3  # each layer that divides by rounding would multiply by 1e6
    loss.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.eval().sample(10, generator=torch.Generator().manual_seed(0)).isfinite().all()


@pytest.mark.parametrize("name", ["realnvp", "glow", "maf"])
@pytest.mark.parametrize(
    "batch",
    [
        rare(1),
        rare(0),
        0 * rare(64),
        1e15 * rare(64),
        1e-40 * rare(64),
        rare(64).where(torch.arange(64)[:, None] > 0, torch.nan),
    ],
    ids=["one row", "no row", "zeros", "huge", "denormal", "one row of NaN"],
)
def test_degenerate_batches(name: str, batch: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = zoo.create(name, (5,))
    model.initialize(batch)
    good = batch[-1:] if len(batch) else rare(1)
    assert model.eval().loss(good).abs().item() < 1e3
    assert model.sample(10, generator=torch.Generator().manual_seed(0)).isfinite().all()
