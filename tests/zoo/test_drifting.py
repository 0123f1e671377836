"""drifting: it learns two clusters by label, remembers what it has seen, and goes on from a checkpoint bit for bit."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk import zoo
from pyflowk.metrics import energy_distance
from pyflowk.nets import MLPField
from pyflowk.objectives import Drifting
from pyflowk.space import Space
from pyflowk.zoo.drifting import DriftingModel
from tests.zoo.test_systems import seeded


def clusters(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 2
    return 3.0 * (2 * labels[:, None] - 1) + torch.randn((n, 2), generator=seeded(seed)), labels


@pytest.mark.parametrize("normalise, kernel", [("double", "laplace"), ("sinkhorn", "gaussian")])
def test_it_learns_two_clusters_by_label(normalise: str, kernel: str) -> None:
    torch.manual_seed(0)
    model = zoo.drifting((2,), classes=2, normalise=normalise, kernel=kernel, finest=0.05, width=32, depth=2, memory=64)
    x, labels = clusters(128)
    model.initialize(x, labels)
    before, optimizer = model.eval().loss(x, labels, seeded()).mean(), torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 100)  # forces stay as large as they are
        loss = model.train().loss(*clusters(64, step), seeded(step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.eval().loss(x, labels, seeded()).mean() < 0.8 * before
    samples = model.sample(128, labels, seeded())
    for label in (0, 1):
        assert energy_distance(samples[labels == label], x[labels == label]) < 0.15  # from the other one it is 6.6


def test_events_attract_and_repel_among_their_label_alone() -> None:
    x, labels = clusters(12)
    more = clusters(8, 1)
    bias = torch.zeros(12, 2, requires_grad=True)  # what a network may give, a row at a time

    def slopes(rows: slice) -> Tensor:
        chosen = bias[rows]
        (slope,) = torch.autograd.grad(
            Drifting()(lambda t, z, c: -z + clusters(12, 2)[0][rows] + chosen, x[rows], labels[rows],
                       more=(more[0], more[1]), reduction="sum"), bias,
        )  # fmt: skip
        return slope[rows]

    together = slopes(slice(None))
    for label in (0, 1):
        torch.testing.assert_close(slopes(slice(label, None, 2)), together[label::2])
    with pytest.raises(TypeError, match="expected class labels"):
        Drifting()(lambda t, z, c: z, x, torch.zeros(12, 3))
    with pytest.raises(ValueError, match="more: expected labels of its rows"):
        Drifting()(lambda t, z, c: z, x, labels, more=(more[0], None))
    with pytest.raises(ValueError, match="temperatures: expected at least one"):
        Drifting(())
    with pytest.raises(TypeError, match=r"temperatures must be a sequence of numbers; got 0\.05"):
        Drifting(0.05)  # type: ignore[arg-type]
    assert Drifting(t / 10 for t in (1, 2)).temperatures == (0.1, 0.2)  # type: ignore[arg-type]


def test_labels_of_one_event_each_are_made_together() -> None:
    """A batch of as many labels as rows makes several of some of them; made one by one they are refused."""
    options: dict[str, Any] = {"classes": 64, "width": 8, "depth": 1, "memory": 0}
    x, labels = torch.randn(64, 2, generator=seeded()), torch.arange(64).flip(0)
    model = zoo.drifting((2,), **options)
    model.initialize(x, labels)
    made = model._made(labels)
    assert made is not None and made.shape == (64,) and {*made.tolist()} == {63, 62, 61, 60}
    assert (made.bincount()[60:] == 16).all()
    model.train().loss(x, labels, seeded()).sum().backward()
    assert sum(p.grad.abs().sum() for p in model.parameters() if p.grad is not None) > 0
    apart = zoo.drifting((2,), **options, together=0)
    apart.initialize(x, labels)
    with pytest.raises(
        ValueError, match="expected several rows of some label, to be kept apart; got 64 of one row each"
    ):
        apart.train().loss(x, labels, seeded())
    alone = Drifting(normalise="sinkhorn")(lambda t, z, c: torch.zeros_like(z), x, labels)
    assert alone.shape == (64,) and alone.min() > 0  # whose plans need no second row


def test_guidance_drives_events_away_from_other_labels() -> None:
    """What is made as the data are follows the chance of the draw, and with guidance leaves for where no others are."""
    labels, y = torch.arange(400) % 2, 2.0 * (torch.arange(400) % 2)[:, None] - 1
    x = y + torch.randn(400, 1, generator=seeded(1))
    made, bias = y + torch.randn(400, 1, generator=seeded(2)), torch.zeros(400, 1, requires_grad=True)

    def outwards(guidance: float) -> Tensor:
        """How much of the forces on either label leads away from the other one."""
        objective = Drifting((0.5,), guidance=guidance)
        loss = objective(lambda t, z, c: made - z + bias, x, labels, generator=seeded(), reduction="sum")
        (slope,) = torch.autograd.grad(loss, bias)
        means = torch.stack([slope[labels == label].mean() for label in (0, 1)])
        return means * torch.tensor([1.0, -1.0]) / slope.square().mean().sqrt()

    assert (outwards(2.0) > 0.6).all() and (outwards(2.0) - outwards(0.0) > 0.5).all()
    with pytest.raises(ValueError, match=r"guidance: expected 0 without labels, got 2\.0"):
        Drifting(guidance=2.0)(lambda t, z: z, x)
    with pytest.raises(ValueError, match=r"guidance: expected 0 without labels, got 2\.0"):
        zoo.drifting((1,), guidance=2.0)


def test_it_remembers_the_last_events_and_goes_on_from_a_checkpoint() -> None:
    model = zoo.drifting((2,), classes=2, width=8, depth=1, memory=10)
    model.initialize(*clusters(16))
    batches = [clusters(6, seed) for seed in range(4)]
    for x, labels in batches[:2]:
        model.train().loss(x, labels, seeded())
    inside = model.flow.transform.to_noise(torch.cat([x for x, _ in batches[:2]]))
    assert int(model.seen) == 12
    torch.testing.assert_close(model.memory, torch.cat([inside[10:], inside[2:10]]))  # the oldest went first
    assert model.labels.tolist() == [0, 1] * 5
    model.eval().loss(*batches[2], seeded())  # which is remembered in training alone
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    for one in (model, twin):
        one.train()
    for x, labels in batches[2:]:
        assert torch.equal(model.loss(x, labels, seeded(1)), twin.loss(x, labels, seeded(1)))
    assert torch.equal(model.memory, twin.memory)
    many = clusters(25, 9)[0]
    model.loss(many, torch.zeros(25, dtype=torch.int64), seeded())
    assert int(model.seen) == 34 and {*model.labels.tolist()} == {0}  # more rows than there is room for
    many[3] = math.nan
    model.loss(many[:6], torch.ones(6, dtype=torch.int64), seeded())
    assert int(model.seen) == 39 and model.memory.isfinite().all() and model.labels.sum() == 5  # all but the NaN
    assert model.loss(*batches[0], seeded()).isfinite().all()
    with pytest.raises(ValueError, match="memory to be an integer of at least 0, got -1"):
        DriftingModel(Space((2,)), MLPField(2, 8, 1), Drifting(), memory=-1)
