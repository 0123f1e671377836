"""Pairs that are known: as they are given, or as a flow makes them."""

from __future__ import annotations

import pytest
import torch

from pyflowk.distributions import DiagonalGaussian
from pyflowk.objectives import Matching
from pyflowk.paths import FlowNoise, Given
from pyflowk.transforms import ActNorm, Compose


def test_given_pairs_take_the_place_of_what_was_drawn() -> None:
    x0, x1, context = torch.randn(4, 2), torch.randn(4, 2), torch.arange(4)
    loss = Matching(pairing=Given(x0, x1))
    straight = loss(lambda t, x, c: x1 - x0, torch.zeros(4, 2), context)
    assert torch.equal(straight, torch.zeros(4))


def test_noise_is_what_a_flow_makes_of_its_event() -> None:
    norm = ActNorm(2)
    x1 = 3 + 2 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    norm.initialize(x1)
    x0, kept, context = FlowNoise(Compose(norm))(torch.zeros(500, 2), x1, torch.arange(500))
    assert torch.equal(kept, x1) and torch.equal(x0, norm(x1)[0]) and not x0.requires_grad
    assert context is not None and x0.mean().abs() < 1e-5
    assert Matching(pairing=FlowNoise(norm), source=DiagonalGaussian((2,)))(lambda t, x: x, x1).shape == (500,)
    with pytest.raises(ValueError, match=r"latents to have the shape \(500, 2\), got \(500, 1\)"):
        FlowNoise(lambda x, context: x[:, :1])(x1, x1)
