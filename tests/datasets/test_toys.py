import math

import pytest
import torch

from pyflowk import datasets
from pyflowk.datasets.sets import toys

TOYS = ("8gaussians", "moons", "checkerboard", "scurve", "swissroll", "rings", "pinwheel", "2spirals")


def draw(toy, n=20_000, seed=0, **options):
    return toy(n, torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("name", TOYS)
def test_seeded_and_apart_from_the_global_state(name):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again, other = (datasets.load(name, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.train, again.train) and torch.equal(first.test, again.test)
    assert not torch.equal(first.train, other.train)
    assert not torch.equal(first.train[:2000], first.test[:2000])
    assert (len(first.train), len(first.valid), len(first.test)) == (10_000, 2_000, 10_000)
    assert first.space.shape == (2,) and first.train.dtype == torch.float32 and bool(first.train.isfinite().all())
    assert first.space.levels is None
    if first.space.classes is not None:
        assert sorted(first.train_context.unique().tolist()) == list(range(first.space.classes))


def test_eight_gaussians_have_the_stated_entropy():
    x, label = draw(toys.eight_gaussians)
    angle = torch.arange(8) * math.pi / 4
    centre = 4 / math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], dim=1)
    variance = 0.25 / 2
    square = (x[:, None] - centre).square().sum(-1)
    log_p = torch.logsumexp(-square / (2 * variance), 1) - math.log(8 * 2 * math.pi * variance)
    assert abs(-log_p.mean().item() - 2.8316) < 4 * log_p.std().item() / math.sqrt(len(x))
    assert datasets.load("8gaussians").entropy == 2.8316
    assert (square.argmin(1) == label).float().mean() > 0.97


def test_the_transport_ring_is_an_option():
    x, _ = draw(toys.eight_gaussians, radius=5.0, std=1.0, scale=1.0)
    assert abs(x.square().sum(1).mean().item() - 27) < 0.5  # radius^2 + 2 std^2


def test_checkerboard_fills_exactly_half_of_the_board():
    x, label = draw(toys.checkerboard)
    assert x.min() >= -4 and x.max() < 4
    cell = ((x + 4) / 2).floor().long()
    assert bool(((cell.sum(1)) % 2 == 0).all())
    cells, counts = torch.unique(cell, dim=0, return_counts=True)
    assert len(cells) == 8 and counts.min() > 2200  # 2500 expected, standard deviation 47
    assert len(torch.unique(torch.cat([cell, label[:, None]], 1), dim=0)) == 8
    assert datasets.load("checkerboard").entropy == pytest.approx(math.log(32))


def test_moons_lie_on_their_half_circles():
    x, label = draw(toys.moons, noise=0.0)
    unit = (x + torch.tensor([1.0, 0.0])) / 2
    first, second = unit[label == 0], unit[label == 1]
    assert torch.allclose(first.norm(dim=1), torch.ones(len(first)), atol=1e-5) and first[:, 1].min() >= -1e-5
    rest = second - torch.tensor([1.0, 0.5])
    assert torch.allclose(rest.norm(dim=1), torch.ones(len(rest)), atol=1e-5) and rest[:, 1].max() <= 1e-5


def test_s_curve_is_two_three_quarter_circles():
    x, _ = draw(toys.s_curve, noise=0.0)
    x = x / 1.5
    centre = torch.stack([torch.zeros(len(x)), x[:, 1].sign()], dim=1)
    assert torch.allclose((x - centre).norm(dim=1), torch.ones(len(x)), atol=1e-4)
    assert x[:, 0].amin() < -0.99 and x[:, 0].amax() > 0.99 and x[:, 1].amin() < -1.99 and x[:, 1].amax() > 1.99


def test_rings_have_four_radii():
    x, label = draw(toys.rings)
    for k in range(4):
        radius = x[label == k].norm(dim=1)
        assert abs(radius.mean().item() - 0.75 * (k + 1)) < 0.02


def test_swiss_roll_radius_is_its_angle():
    x, _ = draw(toys.swiss_roll)
    radius = x.norm(dim=1)
    assert 1.5 * math.pi / 5 - 1 < radius.min() and radius.max() < 4.5 * math.pi / 5 + 1


def test_the_two_spirals_are_point_reflections():
    x, label = draw(toys.two_spirals)
    first, second = x[label == 0], -x[label == 1]
    assert torch.allclose(first.mean(0), second.mean(0), atol=0.05)
    assert torch.allclose(first.T.cov(), second.T.cov(), atol=0.2)


def test_pinwheel_has_five_fold_symmetry():
    x, label = draw(toys.pinwheel)
    turn = 2 * math.pi / 5
    rotation = torch.tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    means = torch.stack([x[label == k].mean(0) for k in range(5)])
    assert torch.allclose(means @ rotation, means.roll(-1, 0), atol=0.05)
