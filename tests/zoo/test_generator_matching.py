"""Generator matching as a system: a ring is learned by flow and jumps at once, and drawn by any share of them."""

from __future__ import annotations

import pytest
import torch

from pyflowk import zoo
from tests.zoo.test_flow_matching import fitted, ring, seeded


def test_a_ring_is_learned_and_drawn_by_flow_diffusion_jumps_and_both() -> None:
    """A Gaussian of the same moments has a radius of 1.8 and a deviation of 0.93 in it; the ring 2 and 0.1."""
    torch.manual_seed(0)
    model = fitted(zoo.generator_matching((2,), width=64, depth=2, bins=64, reach=4.0), ring(2048, 1), 400)
    with torch.no_grad():
        for options in ({"share": 0.0}, {"share": 0.0, "noise": 1.0}, {"share": 0.5}, {"share": 1.0}):
            radius = (model.sample(400, None, seeded(), **options) - torch.tensor([3.0, 0.0])).norm(dim=1)
            assert radius.mean().item() == pytest.approx(2, abs=0.2) and radius.std() < 0.5, options
        found = model.walk(50, None, seeded(), gate="naive", share=1.0, steps=5)
        assert found.x.shape == (50, 2) and (found.saturated > 0).any() and (found.saturated <= 1).all()


def test_noise_is_replaced_by_levels() -> None:
    """Two pixels that are equal, by jumps of one at a time."""
    torch.manual_seed(0)
    x = torch.randint(0, 4, (2048, 1), generator=seeded()).repeat(1, 2).float()
    model = zoo.generator_matching((2,), levels=4, process="jump", path="mixture", bins=8, width=64, depth=2)
    drawn = fitted(model, x, 300).sample(400, None, seeded())
    assert (drawn[:, 0] == drawn[:, 1]).float().mean() > 0.8
    assert (torch.bincount(drawn[:, 0].long(), minlength=4) / 400 - 0.25).abs().max() < 0.12


def test_guidance_goes_beyond_the_context() -> None:
    model = zoo.generator_matching((2,), classes=2, dropout=0.2, width=8, depth=1, bins=4)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=seeded(p.numel()))
    labels = torch.arange(6) % 2
    plain, none, without, beyond = (
        model.sample(6, c, seeded(), guidance=g) for c, g in ((labels, 0.0), (None, 0.0), (labels, -1.0), (labels, 2.0))
    )
    torch.testing.assert_close(none, without)
    assert not torch.allclose(plain, none) and not torch.allclose(plain, beyond)
    with pytest.raises(ValueError, match="can do without its context"):
        zoo.generator_matching((2,), classes=2, width=8).sample(2, labels[:2], guidance=1.0)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="process: expected jump on the path mixture, which has no flow"):
        zoo.generator_matching((2,), path="mixture")
    with pytest.raises(ValueError, match="share: expected 0 of what has a drift alone"):
        zoo.generator_matching((2,), process="flow", width=8).sample(2, share=0.5)
    model = zoo.generator_matching((1,), reach=1.0, width=8)
    model.initialize(torch.tensor([[-1.0], [1.0]]))
    with pytest.warns(UserWarning, match="data beyond the reach are learned as if at it"):
        assert model.loss(torch.tensor([[0.0], [9.0]])).isfinite().all()
    coarse = model.bfloat16()
    for call in (lambda: coarse.loss(torch.zeros(2, 1)), lambda: coarse.sample(2, steps=2)):
        with pytest.raises(TypeError, match=r"weights are torch.bfloat16, too coarse .* torch.autocast"):
            call()
