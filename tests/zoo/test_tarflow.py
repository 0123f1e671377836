"""TARFlow's own rules: noise and its way back, contexts that are dropped, guidance, and likelihoods of a known law."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk import zoo
from pyflowk.transforms import Causal, GaussianNoise
from pyflowk.zoo import TarFlow


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(shape: tuple[int, ...] = (6,), **options: Any) -> TarFlow:
    torch.manual_seed(0)
    return zoo.tarflow(shape, **{"width": 8, "depth": 1, "blocks": 2, **options})


def awake(model: TarFlow, std: float = 0.2) -> TarFlow:
    with torch.no_grad():
        for p in model.parameters():
            p += std * torch.randn(p.shape, generator=seeded(p.numel()))
    return model.eval()


def gaussian(mean: float, deviation: float, **options: Any) -> TarFlow:
    """A model of independent N(mean, deviation^2): one block, whose network says so whatever it sees."""
    model = small((4,), blocks=1, start=True, limit=80.0, **options).eval()
    maps = [layer for layer in model.flow.transform.layers() if isinstance(layer, Causal)]
    with torch.no_grad():
        maps[0].net.last.bias.copy_(torch.tensor([80 * math.atanh(math.log(deviation) / 80), mean]))  # type: ignore
    return model


def test_bits_of_a_gaussian_are_those_of_the_formula() -> None:
    model, x = gaussian(0.2, 0.5), torch.randn(1000, 4, generator=seeded())
    expected = torch.distributions.Normal(0.2, 0.5).log_prob(x).sum(1)
    torch.testing.assert_close(model.log_prob(x), expected, rtol=1e-5, atol=1e-4)
    levels = gaussian(0.2, 0.5, levels=16, noise=0.1)  # none in evaluation; without, there is a logit
    x = torch.randint(0, 16, (500, 4), generator=seeded()).float()
    edges = torch.arange(17) / 8 - 1
    inside = torch.distributions.Normal(0.2, 0.5).cdf(edges).diff().log()[x.long()].sum(1)
    bound = torch.stack([levels.log_prob(x, None, seeded(i)) for i in range(20)]).mean(0)
    assert 0 < (inside - bound).mean() < 0.02 * 4  # nats: what even noise in a cell costs


def test_one_step_of_denoising_by_its_closed_form() -> None:
    """Of N(1, .25) with noise of deviation .3: a golden number, and less spread than the data have."""
    model = gaussian(1.0, math.sqrt(0.25 + 0.09), noise=0.3)
    plain, clean = (model.sample(2000, None, seeded(), denoise=which) for which in (False, True))
    torch.testing.assert_close(clean, 1 + (plain - 1) * (0.25 / 0.34), rtol=1e-4, atol=1e-5)
    one_sigma_up = 1 + math.sqrt(0.34)
    assert 1 + (one_sigma_up - 1) * (0.25 / 0.34) == pytest.approx(1.4287465, abs=1e-7)
    assert clean.std().item() == pytest.approx(0.4287465, rel=0.02)
    with torch.no_grad():
        assert torch.equal(clean, model.sample(2000, None, seeded(), denoise=True))
    assert torch.equal(clean, model.sample(2000, None, seeded(), denoise=True).detach())


def test_denoised_levels_are_levels() -> None:
    model = awake(small((1, 4, 4), levels=5, noise=0.2))
    x = model.sample(20, None, seeded(), denoise=True)
    assert torch.equal(x, x.round()) and x.min() >= 0 and x.max() <= 4
    assert not torch.equal(x, model.sample(20, None, seeded()))


def test_noise_is_on_the_data_of_training_alone() -> None:
    model, x = awake(small(noise=0.3)), torch.randn(64, 6)
    model.initialize(x)
    still = model.loss(x, None, seeded(1))
    assert torch.equal(still, model.loss(x, None, seeded(2)))
    noisy = model.train().loss(x, None, seeded(1))
    assert torch.equal(noisy, model.loss(x, None, seeded(1))) and not torch.equal(noisy, model.loss(x, None, seeded(2)))
    noise = next(layer for layer in model.flow.transform.layers() if isinstance(layer, GaussianNoise))
    noise.eval()
    assert torch.equal(model.loss(x, None, seeded(1)), still)


def test_the_context_is_dropped_in_training_alone() -> None:
    model, x, labels = awake(small(classes=3, dropout=0.5)), torch.randn(400, 6), torch.arange(400) % 3
    model.initialize(x, labels)
    given, without = model.loss(x, labels), model.loss(x, None)
    assert torch.isclose(given, without).sum() < 4  # by chance
    mixed = model.train().loss(x, labels, seeded())
    dropped = torch.isclose(mixed, without, atol=1e-5)
    torch.testing.assert_close(mixed[~dropped], given[~dropped])
    assert 0.4 < dropped.float().mean() < 0.6
    with pytest.raises(ValueError, match=r"dropout: expected 0 where there is no context to drop, got 0\.5"):
        small(dropout=0.5)


def test_splines_move_each_number_and_come_back() -> None:
    model = awake(small((1, 4, 4), levels=5, map="spline", bins=4, start=True))
    x, log_q = model.double().sample_and_log_prob(6, None, seeded())
    blocks = model._ends()[1]
    z = torch.randn(6, 16, generator=seeded(), dtype=torch.float64)
    tokens = blocks.transform.to_data(z)
    torch.testing.assert_close(blocks.transform(tokens)[0], z)
    slopes = torch.autograd.functional.jacobian(
        lambda row: blocks.transform(row.reshape(tokens[:1].shape))[0][0], tokens[0].flatten()
    )
    torch.testing.assert_close(torch.linalg.slogdet(slopes)[1], blocks.transform(tokens[:1])[1][0])
    assert x.shape == (6, 1, 4, 4) and log_q.isfinite().all()
    with pytest.raises(ValueError, match="guidance expects an Affine map"):
        model.sample(2, guidance=1.0, attention_temperature=0.5)
    with pytest.raises(ValueError, match="published: expected learned positions, no start nor spline"):
        small(map="spline", published=True)


def test_guided_samples_and_their_density() -> None:
    model, label = awake(small(classes=3, dropout=0.1)), torch.tensor([1])
    how = {"guidance": 1.5, "guidance_rule": "product", "guidance_rises": True}
    plain, x = model.sample(5, label, seeded()), model.sample(5, label, seeded(), **how)
    assert not torch.allclose(plain, x)
    assert torch.equal(plain, model.sample(5, label, seeded(), guidance=0.0))
    torch.testing.assert_close(
        model.sample(5, label, seeded(), guidance=-1.0), model.sample(5, None, seeded()), rtol=1e-4, atol=1e-5
    )
    same, log_q = model.sample_and_log_prob(5, label, seeded(), **how)
    assert torch.equal(same, x)
    torch.testing.assert_close(log_q, model._drawn_by(model.chosen(how)).log_prob(x, label), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(log_q, model.log_prob(x, label), rtol=1e-2)


def test_guidance_without_a_context_by_the_temperature_of_attention() -> None:
    model = awake(small(), std=0.5)
    plain = model.sample(5, None, seeded())
    assert not torch.allclose(plain, model.sample(5, None, seeded(), guidance=1.0, attention_temperature=0.3))
    with pytest.raises(ValueError, match="guidance expects a context, or another temperature than 1"):
        model.sample(5, guidance=1.0)
    with pytest.raises(ValueError, match=r"attention_temperature: is for guidance other than 0; got 0\.3 without it"):
        model.sample(5, attention_temperature=0.3)


def test_additive_maps_keep_the_volume_and_the_base_learns_its_spread() -> None:
    torch.manual_seed(0)
    model = small((2,), map="additive").train()
    x = torch.randn(2000, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    model.initialize(x)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(x).mean().backward()
        optimizer.step()
    entropy = 0.5 * torch.logdet(torch.cov(x.T)) + 1 + math.log(2 * math.pi)
    assert model.loss(x).mean().item() == pytest.approx(entropy.item(), abs=0.02)


def test_flat_memory_learns_the_same() -> None:
    losses: list[Tensor] = []
    for flat in (False, True):
        model = awake(small((1, 4, 4), levels=5, noise=0.1, memory_flat=flat)).train()
        loss = model.loss(torch.randint(0, 5, (8, 1, 4, 4), generator=seeded()).float(), None, seeded())
        losses += [loss, *torch.autograd.grad(loss.sum(), [p for p in model.parameters() if p.requires_grad])]
    half = len(losses) // 2
    for a, b in zip(losses[:half], losses[half:], strict=True):
        torch.testing.assert_close(a, b)


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"patch: expected a common divisor of the sides of \(1, 4, 6\), got 4"):
        small((1, 4, 6), patch=4)
    with pytest.raises(ValueError, match=r"patch: expected a common divisor of the sides of \(6,\), got 4"):
        small((6,), patch=4)
    with pytest.raises(ValueError, match="tokens: expected at least 2 where nothing stands in front"):
        small((6,), patch=6)
    with pytest.raises(ValueError, match="denoise: expected a model that was trained with noise above 0, got one of 0"):
        small().sample(3, denoise=True)
    with pytest.raises(ValueError, match=r"can do without its context"):
        small(classes=3).sample(3, torch.tensor([0]), guidance=1.0)
    with pytest.raises(ValueError, match="attention_temperature: expected a number above 0, got 0"):
        small().sample(3, attention_temperature=0)


def test_samples_are_the_same_however_their_tokens_are_found() -> None:
    model, label = awake(small((1, 4, 4), patch=1, classes=3, dropout=0.1)), torch.tensor([1])
    for how in ({}, {"guidance": 1.5, "guidance_rule": "product"}):
        plain = model.sample(4, label, seeded(), **how)
        for decoding in ({"decoding": "jacobi"}, {"decoding": "gauss-seidel", "segment": 5}):
            with torch.no_grad():
                x = model.sample(4, label, seeded(), **decoding, **how)
            torch.testing.assert_close(x, plain, rtol=1e-4, atol=1e-5)
            found = model.solved(4, label, seeded(), **decoding, **how)
            assert len(found) == 2 and all(0 < r <= 15 for _, solved in found for r in solved.rounds)
    with torch.no_grad():
        near = model.sample(4, label, seeded(), decoding="jacobi", tolerance=0.1)
    assert not torch.equal(near, plain)
    with pytest.raises(ValueError, match=r"tolerance: expected 0 for densities of samples, .*; got 0\.1"):
        model.sample_and_log_prob(4, label, decoding="jacobi", tolerance=0.1)
    with pytest.raises(ValueError, match="decoding: expected auto, sequential, jacobi, gauss-seidel or learned, got"):
        model.sample(4, label, decoding="newton")
    with pytest.raises(ValueError, match="segment: expected an integer from 1 to"):
        model.sample(4, label, segment=0)


def test_a_model_of_all_levels_hears_which_one_and_denoises_step_by_step() -> None:
    model = awake(small((6,), classes=3, dropout=0.2, noise=0.3, iterative=True), 0.4)
    x, labels = torch.randn(300, 6, generator=seeded(3)), torch.arange(300) % 3
    model.initialize(x, labels)
    assert model.loss_unit == "nats" and torch.equal(model.loss(x, labels), -model.log_prob(x, labels))
    heard = [model.flow.log_prob(x, model._at(level, labels, 300)) for level in (0.01, 0.3)]
    assert torch.equal(heard[0], model.log_prob(x, labels)) and not torch.isclose(*heard, rtol=1e-3).all()
    assert not torch.isclose(model.log_prob(x), model.log_prob(x, labels), rtol=1e-3).all()
    model.train()
    assert model.loss_unit is None
    losses = model.loss(x, labels, seeded(1))
    assert torch.equal(losses, model.loss(x, labels, seeded(1))) and losses.std() > 0
    model.eval()
    chosen = {"denoise": True, "denoising_steps": 4, "guidance": 1.0, "guidance_rule": "scale"}
    clean, plain = model.sample(7, labels[:1], seeded(), **chosen), model.sample(7, labels[:1], seeded())
    assert clean.isfinite().all() and not torch.allclose(clean, plain)
    assert torch.equal(clean, model.sample(7, labels[:1], seeded(), **chosen))
    with pytest.raises(ValueError, match="denoised samples have no known density"):
        model.sample_and_log_prob(3, labels[:1], denoise=True)
    with pytest.raises(ValueError, match=r"noise: expected more than 0\.01 if iterative, got 0"):
        small(iterative=True)
    with pytest.raises(ValueError, match="guidance expects a context, or another temperature"):
        small(noise=0.3, iterative=True).sample(2, guidance=1.0)
