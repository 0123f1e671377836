"""What a residual flow has beyond other systems: two modes, certified layers, estimates that agree with the truth."""

from __future__ import annotations

import math

import pytest
import torch

from pyflowk import zoo
from pyflowk.transforms import check_contraction, check_invertibility


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ring(n: int) -> torch.Tensor:
    angle = 2 * math.pi * torch.rand(n, generator=seeded())
    return math.sqrt(2) * torch.stack((angle.cos(), angle.sin()), 1) + 0.1 * torch.randn(n, 2, generator=seeded(1))


@pytest.mark.parametrize("exact_dims", [32, 0])
def test_it_learns_a_ring_in_either_way(exact_dims: int) -> None:
    """A full Gaussian reaches log(2 pi e) = 2.84 nats; exact log-determinants and the roulette both get below 2.5."""
    torch.manual_seed(0)
    x = ring(2048)
    model = zoo.create("residual_flow", (2,), width=32, layers=5, depth=2, exact_dims=exact_dims, iterations=4)
    model.initialize(x)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(150):
        loss = model.loss(x[(step % 8) * 256 : (step % 8 + 1) * 256], None, seeded(step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(layer.certified < 1 for layer in check_contraction(model))
    model.eval()
    with torch.no_grad():
        assert model.loss(x, None, seeded()).mean() < 2.5
    assert all(layer.certified < 0.9001 for layer in check_contraction(model))
    assert check_invertibility(model.flow.transform, x[:200], None, seeded()).max_error < 1e-4


def test_estimates_agree_with_the_exact_density_of_an_image() -> None:
    torch.manual_seed(0)
    shape, x = (1, 8, 8), torch.randn(4, 1, 8, 8, generator=seeded())
    options = {"architecture": "multiscale", "width": 8, "layers": 2, "lipschitz": 0.7}
    exact = zoo.create("residual_flow", shape, evaluation_terms=0, **options)
    exact.initialize(torch.randn(64, *shape))
    with torch.no_grad():
        for p in exact.parameters():
            p += 0.1 * torch.randn(p.shape)
    series = zoo.create("residual_flow", shape, exact_dims=0, **options)
    series.load_state_dict(exact.state_dict())
    with torch.no_grad():
        expected = exact.eval().log_prob(x)
        rows = x.repeat_interleave(400, 0)
        for mode in (True, False):
            series.eval()(x, None, seeded())  # converges the norms, so that both modes have the same weights
            draws = series.train(mode).log_prob(rows, None, seeded(5)).reshape(4, 400)
            error = (draws.mean(1) - expected).abs()
            assert (error < 5 * draws.std(1) / 20 + 2e-3).all()


def test_images_of_columns_in_pairs_are_learnt() -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 16, (128, 1, 8, 4), generator=seeded()).float().repeat_interleave(2, 3)
    model = zoo.create("residual_flow", (1, 8, 8), architecture="multiscale", levels=16, width=8, layers=1)
    model.initialize(x, generator=seeded())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    start = model.loss(x, None, seeded()).mean().item()
    for step in range(30):
        loss = model.loss(x, None, seeded(step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.eval().loss(x, None, seeded()).mean() < start - 5


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="roulette or truncated"):
        zoo.create("residual_flow", (2,), training="exact")
    with pytest.raises(ValueError, match="auto, vector"):
        zoo.create("residual_flow", (2,), architecture="multiscale")
