"""Consistency models: what a training has seen is saved with them, and they do no more than to sample."""

from __future__ import annotations

import pytest
import torch

from pyflowk import zoo
from pyflowk.zoo import Ability
from tests.zoo.test_systems import seeded


def test_what_was_seen_sets_how_it_learns_and_is_saved() -> None:
    torch.manual_seed(0)
    model = zoo.consistency((2,), width=8, depth=1, warmup=10, derivative="exact").train()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape)
    x = torch.randn(64, 2, generator=seeded())
    model.initialize(x)
    early = model.loss(x, generator=seeded())
    model.after_step(9)
    late = model.loss(x, generator=seeded())
    assert not torch.allclose(early, late)  # the tangent has come in
    model.after_step(500)
    assert torch.equal(model.loss(x, generator=seeded()), late)
    other = zoo.create(**model.config).train()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.loss(x, generator=seeded()), late)
    near = zoo.consistency((2,), width=8, depth=1, derivative="difference", halving=1)
    wide = near.loss(x, generator=seeded())
    near.after_step(3)
    assert not torch.allclose(near.loss(x, generator=seeded()), wide)


def test_samples_and_nothing_else() -> None:
    model = zoo.consistency((2,), classes=3, dropout=0.1, width=8, depth=1).eval()
    label = torch.tensor([1])
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=seeded())
    one, two, far = (model.sample(4, label, seeded(), **o) for o in ({}, {"steps": 2}, {"guidance": 2.0}))
    assert not torch.allclose(one, two) and not torch.allclose(one, far)
    assert not model.abilities and model.sample(2, None).shape == (2, 2)
    with pytest.raises(NotImplementedError, match="consistency has no likelihood"):
        model.log_prob(one, label)
    with pytest.raises(NotImplementedError, match="consistency has no latent space"):
        model.require(Ability.LATENT)
    with pytest.raises(ValueError, match="expected a network that can do without its context"):
        zoo.consistency((2,), classes=3, width=8).sample(2, label, guidance=1.0)
    with pytest.raises(ValueError, match="steps: expected an integer from 1"):
        model.sample(2, label, steps=0)
