"""The bound of learned noise: against the probability itself, by summation, and against that of uniform noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk import zoo
from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.nets import MLP, ConvNet
from pyflowk.transforms import (
    ActNorm,
    Affine,
    Compose,
    Coupling,
    Dequantize,
    Logit,
    Scale,
    Transform,
    VariationalDequantize,
)

LEVELS = 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_of(size: int, scale: float = 0.0) -> Transform:
    """A flow of the noise: location and scale by x, then, for more than one element, a coupling."""
    torch.manual_seed(0)
    layers = [Coupling(MLP(0, 2 * size, 16, 1, "tanh", context_dim=size), mask="all")]
    if size > 1:
        layers.append(Coupling(MLP(size // 2, 2 * (size - size // 2), 16, 1, "tanh", context_dim=size)))
    with torch.no_grad():
        for p in (noise := Compose(*layers).double()).parameters():
            p += scale * torch.randn_like(p)
    return noise


def known_density() -> Transform:
    """A density on [0, LEVELS) whose cells are far from flat."""
    norm = ActNorm(1).eval()
    with torch.no_grad():
        norm.log_scale.fill_(0.9)
        norm.bias.fill_(0.7)
    return Compose(Scale(1 / LEVELS), Logit(0.0), norm).double()


def probabilities() -> Tensor:
    """P(x) for x = 0..LEVELS-1 under the known density, by the midpoint rule."""
    points = 20_000
    z = (torch.arange(LEVELS * points, dtype=torch.float64)[:, None] + 0.5) / points
    with torch.no_grad():
        density = Flow(DiagonalGaussian((1,)).double(), known_density()).log_prob(z).exp()
    return density.reshape(LEVELS, points).mean(1)


def bounds(dequantize: Transform, draws: int = 20_000) -> Tensor:
    """log p(x + u) - log q(u | x), (LEVELS, draws)."""
    flow = Flow(DiagonalGaussian((1,)).double(), Compose(dequantize, known_density()))
    x = torch.arange(LEVELS, dtype=torch.float64).repeat_interleave(draws)[:, None]
    with torch.no_grad():
        return flow.log_prob(x, generator=seeded()).reshape(LEVELS, draws)


def test_it_starts_as_uniform_noise() -> None:
    x = torch.arange(LEVELS, dtype=torch.float64).repeat(2000)[:, None]
    z, ladj = VariationalDequantize(LEVELS, noise_of(1))(x, generator=seeded())
    assert ladj.abs().max() < 1e-12
    u = (z - x).flatten().sort().values
    steps = (torch.arange(len(u), dtype=torch.float64) + 0.5) / len(u)
    assert (u - steps).abs().max() < 1.63 / len(u) ** 0.5  # Kolmogorov-Smirnov, 1 %


def test_draws_weighted_by_their_density_sum_to_the_probability() -> None:
    """E_q[p(x + u) / q(u | x)] = P(x), whatever q is; P sums to one."""
    known = probabilities()
    assert known.sum() == pytest.approx(1, abs=1e-6)
    weights = bounds(VariationalDequantize(LEVELS, noise_of(1, 0.2))).exp()
    error = weights.std(1) / weights.shape[1] ** 0.5
    assert (
        ((weights.mean(1) - known).abs() < 4 * error).all()
        and (error < 0.05 * known).all()
        and (weights.std(1) > 0).all()
    )


def test_the_noise_is_a_density_on_the_cell() -> None:
    """inverse gives log q(u | x): over a grid of the cell the densities average to one."""
    dequantize, points = VariationalDequantize(LEVELS, noise_of(2, 0.4)), 400
    line = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    u = torch.cartesian_prod(line, line)
    for x in ([0.0, 3.0], [2.0, 1.0]):
        with torch.no_grad():
            back, log_q = dequantize.inverse(torch.tensor(x, dtype=torch.float64) + u)
        assert (back == torch.tensor(x)).all() and log_q.exp().mean() == pytest.approx(1, abs=2e-3)
        assert log_q.std() > 0.1


def test_learned_noise_closes_the_gap_that_uniform_noise_leaves() -> None:
    """The model stays; only q learns. Its gap to log P(x) is KL(q || p(u | x)) >= 0."""
    exact = probabilities().log()
    uniform = exact - bounds(Dequantize(LEVELS)).mean(1)
    dequantize = VariationalDequantize(LEVELS, noise_of(1))
    flow = Flow(DiagonalGaussian((1,)).double(), Compose(dequantize, known_density()))
    optimizer = torch.optim.Adam(dequantize.parameters(), 0.04)
    x, generator = torch.arange(LEVELS, dtype=torch.float64).repeat(64)[:, None], seeded(1)
    for _ in range(150):
        loss = -flow.log_prob(x, generator=generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = exact - bounds(dequantize).mean(1)
    assert (uniform > 0.01).any() and (learned > -0.005).all()
    assert learned.mean() < 0.2 * uniform.mean() and (learned < uniform + 0.01).all()


def test_after_training_it_is_never_worse_than_uniform_noise() -> None:
    """Model and noise learn together; pairs of integers on a diagonal."""
    first = torch.randint(0, LEVELS, (512, 1), generator=seeded())
    x = torch.cat((first, (first + torch.randint(0, 2, (512, 1), generator=seeded(1))) % LEVELS), 1).float()
    scores = {}
    for kind in ("uniform", "variational"):
        torch.manual_seed(0)
        model = zoo.create("realnvp", (2,), levels=LEVELS, width=16, couplings=3, depth=1, dequantize=kind)
        model.initialize(x, generator=seeded())
        optimizer, generator = torch.optim.Adam(model.parameters(), 5e-3), seeded(2)
        for _ in range(200):
            loss = model.loss(x, None, generator).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores[kind] = model.loss(x.repeat(20, 1), None, seeded(3)).mean().item()
    assert scores["variational"] < scores["uniform"] - 0.02
    assert scores["variational"] > 2.5 * math.log(2) - 0.6  # not below the data's entropy by more than 512 rows allow


@pytest.mark.parametrize("levels", [2, 256])
def test_images_come_back_and_noise_stays_below_one(levels: int) -> None:
    torch.manual_seed(0)
    nets = [ConvNet(channels, 2, 8, context_channels=1) for channels in (0, 1)]
    for net in nets:
        torch.nn.init.normal_(net.last.weight, std=2.0)
    noise = Compose(Coupling(nets[0], Affine("none"), "all"), Coupling(nets[1], Affine("none"), "checkerboard"))
    dequantize = VariationalDequantize(levels, noise)
    x = torch.randint(0, levels, (50, 1, 6, 6), generator=seeded()).float()
    z, ladj = dequantize(x, generator=seeded())
    assert torch.equal(dequantize.inverse(z)[0], x) and ladj.isfinite().all() and ladj.abs().max() > 1
    assert torch.equal(z, dequantize(x.to(torch.uint8), generator=seeded())[0])


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="at least 2, got 1"):
        VariationalDequantize(1, Compose())
    with pytest.raises(TypeError, match="Transform for the noise, got Linear"):
        VariationalDequantize(4, torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="deterministic noise flow, got Dequantize"):
        VariationalDequantize(4, Dequantize(4))
    with pytest.raises(ValueError, match="uniform or variational, got 'bits'"):
        zoo.create("nice", (2,), levels=4, dequantize="bits")
    with pytest.raises(ValueError, match=r"integer data .* got real data"):
        zoo.create("nice", (2,), dequantize="variational")
