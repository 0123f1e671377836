"""Guidance of systems: what it moves, what it is of a field, and samples without a context of a model that has one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyflowk import zoo
from pyflowk.solvers import Fixed, Guided, Operator, odeint, pooling, projected, zero_star


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model() -> zoo.MatchingModel:
    """It has learned three clusters around the origin, with their labels."""
    torch.manual_seed(0)
    made = zoo.flow_matching((2,), classes=3, width=32, depth=2, dropout=0.2)
    x, labels = clusters(4096)
    made.initialize(x, labels)
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for step in range(400):
        rows = slice(step % 16 * 256, step % 16 * 256 + 256)
        optimizer.zero_grad()
        made.loss(x[rows], labels[rows], seeded(step)).mean().backward()
        optimizer.step()
        plan.step()
    return made.eval()


CENTRES = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])


def clusters(n: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 3
    return CENTRES[labels] + 0.8 * torch.randn(n, 2, generator=seeded()), labels


@torch.no_grad()
def test_samples_move_away_from_the_other_labels(model: zoo.MatchingModel) -> None:
    reach = [
        model.sample(400, torch.tensor(0), seeded(), guidance=w, steps=10)[:, 0].mean().item() for w in (-1, 0, 1, 3)
    ]
    assert reach[0] == pytest.approx(0, abs=0.5) and reach[1] == pytest.approx(2, abs=0.3)
    assert reach[1] + 0.05 < reach[2] < reach[3]
    late = model.sample(400, torch.tensor(0), seeded(), guidance=3, guidance_from=0.6, steps=10)[:, 0].mean().item()
    assert reach[1] < late < reach[3]


@torch.no_grad()
def test_without_a_context_it_is_the_model_of_all(model: zoo.MatchingModel) -> None:
    x, labels = clusters(300)
    apart = (model.sample(900, None, seeded(), steps=10)[:, None] - CENTRES).norm(dim=2).min(1)
    counts = apart.indices.bincount(minlength=3)
    assert counts.min() > 200 and apart.values.mean() < 1.6
    torch.testing.assert_close(
        model.sample(50, None, seeded()), model.sample(50, torch.tensor(1), seeded(), guidance=-1), rtol=1e-4, atol=1e-4
    )
    given, plain = model.log_prob(x, labels), model.log_prob(x)
    assert (given - plain).mean() > 0.4  # nats that the label tells, at most log 3
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=1e-3, atol=1e-3)
    assert model.trajectory(4, (0.0, 0.5)).shape == (2, 4, 2)
    assert model.loss(x).shape == (300,)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "zero-star", "projected"])
def test_what_the_options_mean_of_a_field(model: zoo.MatchingModel, kind: str) -> None:
    noise = model.flow.base.sample(20, None, seeded())
    labels = torch.arange(20) % 3
    front, moving, _ = model._parts()
    options = {
        "plain": {},
        "zero-star": {"direction": zero_star, "still": 0.04},
        "projected": {"direction": projected()},
    }
    guided = Guided(moving.field, 1.5, interval=(0.0, 0.7), **options[kind])  # type: ignore[arg-type]
    z = odeint(lambda t, x: guided(t, x, labels), noise, [0.0, 1.0], method="heun2", stepping=Fixed(9))[-1]
    x = front.to_data(z, labels)
    drawn = model.sample(
        20, labels, seeded(), guidance=1.5, guidance_kind=kind, guidance_until=0.7, method="heun2", steps=9
    )
    torch.testing.assert_close(drawn, x, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_density_of_guided_samples(model: zoo.MatchingModel) -> None:
    """Two routes: with the draw, and by the guided flow of the sample."""
    options = {"guidance": 1.5, "method": "rk4", "steps": 20}
    x, log_prob = model.sample_and_log_prob(20, torch.tensor(2), seeded(), **options)
    torch.testing.assert_close(x, model.sample(20, torch.tensor(2), seeded(), **options))
    flow = model._drawn_by(model.chosen(options))
    torch.testing.assert_close(log_prob, flow.log_prob(x, torch.tensor(2)), rtol=1e-3, atol=1e-3)
    assert (log_prob - model.log_prob(x, torch.tensor(2))).abs().mean() > 0.1


def test_numbers_as_context_hide_their_flag() -> None:
    made = zoo.flow_matching((2,), context_dim=3, width=8, dropout=0.5)
    x, c = torch.randn(8, 2, generator=seeded()), torch.randn(8, 3, generator=seeded(1))
    made.loss(x, c, seeded()).sum().backward()
    assert made.sample(8, c, seeded(), guidance=1.0, steps=2).shape == made.sample(8, None, steps=2).shape
    with pytest.raises(ValueError, match=r"context \(B, 3\) of floats, got \(8, 5\)"):
        made.sample(8, torch.randn(8, 5), steps=2)
    with pytest.raises(ValueError, match=r"expected labels in 0..2, got 3..3"):  # the word for none is no label
        zoo.flow_matching((2,), classes=3, width=8, dropout=0.5).sample(1, torch.tensor(3))


@torch.no_grad()
def test_an_event_is_edited_from_a_time_of_its_way(model: zoo.MatchingModel) -> None:
    """The later it starts, the more stays; with another label it goes over to that; at 1 nothing is changed."""
    x, labels = clusters(300)
    torch.testing.assert_close(model.edit(x, 1.0, labels), x, rtol=1e-5, atol=1e-5)
    moved = [(model.edit(x, t, labels, seeded(7), steps=10) - x).norm(dim=1).mean() for t in (0.0, 0.5, 0.9)]
    assert moved[0] > moved[1] + 0.2 > moved[2] + 0.4
    torch.testing.assert_close(
        model.edit(x, 0.0, labels, seeded()), model.sample(300, labels, seeded()), rtol=1e-4, atol=1e-4
    )
    other = model.edit(x, 0.3, torch.tensor(1), seeded(7), guidance=1.0)
    assert (other - CENTRES[1]).norm(dim=1).mean() < 1.2 < (x - CENTRES[1]).norm(dim=1).mean()
    inverted = model.decode(model.encode(x[labels == 0], torch.tensor(0)), torch.tensor(1))
    assert (inverted.mean(0) - CENTRES[1]).norm() < 0.8
    with pytest.raises(ValueError, match=r"time: expected 0 \(noise\) to 1 \(data\), got 2"):
        model.edit(x, 2.0, labels)
    with pytest.raises(NotImplementedError, match="nice has no editing of events"):
        zoo.nice((2,)).edit(x, 0.5)


@torch.no_grad()
def test_what_is_seen_of_an_event_tells_the_rest(model: zoo.MatchingModel) -> None:
    """Of three clusters one coordinate is seen, in the units of the data."""
    y = torch.tensor([[2.5, torch.nan]]).repeat(300, 1)
    x = model.inpaint(y, torch.tensor([True, False]), None, seeded(), steps=20)
    assert (x[:, 0] == 2.5).all() and x[:, 1].mean().abs() < 0.3 and 0.4 < x[:, 1].std() < 1.2
    total = Operator(lambda x: x.sum(1, keepdim=True))
    x = model.restore(torch.full((300, 1), 3.0), total, None, seeded(), steps=20)
    torch.testing.assert_close(x.sum(1), torch.full((300,), 3.0), rtol=1e-3, atol=1e-3)
    near = model.restore(torch.full((300, 1), 3.0), total, torch.tensor(0), seeded(), noise=0.5, steps=20)
    assert 0.2 < (near.sum(1) - 3).std() < 0.8
    again = model.restore(torch.full((300, 1), 3.0), total, torch.tensor(0), seeded(), noise=0.5, steps=20)
    assert torch.equal(near, again)


@pytest.mark.parametrize("architecture", ["vector", "image"])
@torch.no_grad()
def test_levels_are_seen_as_the_integers_that_they_are(architecture: str) -> None:
    torch.manual_seed(0)
    made = zoo.flow_matching((1, 4, 4), levels=17, width=4, depth=1, architecture=architecture).eval()
    y = torch.randint(0, 17, (5, 1, 4, 4), generator=seeded())
    mask = torch.rand(1, 4, 4, generator=seeded()) < 0.5
    x = made.inpaint(y, mask, generator=seeded(), steps=4)
    assert torch.equal(x[:, mask], y[:, mask].float()) and {*x.flatten().tolist()} <= {*range(17)}
    small = pooling(2).forward(y.float())
    x = made.restore(small, pooling(2), generator=seeded(), steps=4)
    assert (pooling(2).forward(x) - small).abs().mean() < 1.5  # integers and the ends of their range
    with pytest.raises(ValueError, match=r"expected y \(B, 1, 4, 4\), got \(5, 2\)"):
        made.inpaint(torch.zeros(5, 2), torch.ones(2, dtype=torch.bool))


def test_what_cannot_be_guided() -> None:
    plain = zoo.flow_matching((2,), classes=3, width=8)
    with pytest.raises(
        ValueError, match=r"a network that can do without its context, .*dropout above 0; this one was not"
    ):
        plain.sample(3, torch.tensor(0), guidance=1.0)
    with pytest.raises(ValueError, match="this model is conditional: expected labels"):
        plain.sample(3)
    with pytest.raises(ValueError, match=r"dropout: expected 0 where there is no context to drop, got 0.1"):
        zoo.flow_matching((2,), dropout=0.1)
    made = zoo.flow_matching((2,), classes=3, width=8, dropout=0.1)
    with pytest.raises(ValueError, match="guidance: expected a context, from which to go further; got none"):
        made.sample(3, guidance=1.0)
    with pytest.raises(
        ValueError, match=r"guidance_from, guidance_until: expected two times in order, got 0\.5 and 0\.2"
    ):
        made.sample(3, torch.tensor(0), guidance=1.0, guidance_from=0.5, guidance_until=0.2)


@pytest.mark.parametrize("classes", [None, 3])
def test_guidance_without_dropout_is_refused_before_anything_is_drawn_or_learned(classes: int | None) -> None:
    made = zoo.flow_matching((2,), classes=classes, width=4, depth=1)
    assert made.chosen({"guidance": 0.0}).guidance == 0  # type: ignore[attr-defined]
    wanted = "hears labels" if classes is None else "without its context, for guidance .* a system with dropout above 0"
    with pytest.raises(ValueError, match=wanted):
        made.chosen({"guidance": 1.0})
