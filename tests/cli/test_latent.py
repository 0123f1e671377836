"""Walks in latent space keep to where the data are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk import datasets, zoo
from pyflowk.cli import latent
from pyflowk.cli.latent import STEPS, arc

ALONG = torch.linspace(0, 1, 9)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(2,), (64,), (3, 4, 4)])
def test_the_norm_goes_evenly_from_one_end_to_the_other(shape: tuple[int, ...]) -> None:
    a, b = torch.randn((2, 10, *shape), generator=seeded())
    walk = arc(a, 3 * b, ALONG)
    assert walk.shape == (10, 9, *shape)
    torch.testing.assert_close(walk[:, 0], a)
    torch.testing.assert_close(walk[:, -1], 3 * b)
    norms = walk.flatten(2).norm(dim=2)
    torch.testing.assert_close(norms, torch.lerp(norms[:, :1], norms[:, -1:], ALONG))
    unit = torch.nn.functional.normalize(walk.flatten(2).double(), dim=2)
    angles = (unit[:, 1:] * unit[:, :-1]).sum(2).clamp(-1, 1).acos()
    torch.testing.assert_close(angles, angles[:, :1].expand_as(angles), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "a, b, middle",
    [
        ([1.0, 0.0, 0.0], [3.0, 0.0, 0.0], [2.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 1.0, 0.0]),
        ([0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([1e20, 0.0, 0.0], [0.0, 1e20, 0.0], [1e20 / math.sqrt(2), 1e20 / math.sqrt(2), 0.0]),
    ],
)
def test_parallel_and_zero_vectors(a: list[float], b: list[float], middle: list[float]) -> None:
    torch.testing.assert_close(
        arc(torch.tensor([a]), torch.tensor([b]), torch.tensor([0.5]))[0, 0], torch.tensor(middle)
    )


@pytest.mark.parametrize("a", [[1.0, 0.0, 0.0], [0.5, -2.0, 1.0]])
@pytest.mark.parametrize("tilt", [0.0, 1e-12, 1e-7])
def test_opposite_vectors_go_around_the_origin(a: list[float], tilt: float) -> None:
    start = torch.tensor([a], dtype=torch.float64)
    end = -start + tilt * torch.tensor([[0.3, 0.2, -0.4]])
    walk = arc(start, end, ALONG)[0]
    torch.testing.assert_close(walk.norm(dim=1), start.norm().expand(9), rtol=1e-6, atol=0)
    torch.testing.assert_close(walk[-1], end[0], rtol=0, atol=1e-8)
    assert walk[4].dot(start[0]).abs() < 1e-6


@pytest.mark.parametrize("classes", [None, 10])
def test_interpolation_of_events(classes: int | None) -> None:
    """Ends are the events themselves; between them the noise has the norms of noise, about the class's own mean."""
    data = datasets.load("digits")
    torch.manual_seed(0)
    model = zoo.create("nice", data.space.shape, levels=17, width=8, couplings=2, classes=classes)
    model.initialize(data.train[:200], None if classes is None else data.train_context[:200], seeded())
    with torch.no_grad():
        for p in model.flow.base.parameters():
            p += torch.randn(p.shape, generator=seeded())
    seen: list[Tensor] = []
    decode = model.decode
    model.decode = lambda z, *rest: (seen.append(z), decode(z, *rest))[1]  # type: ignore[method-assign]
    x = latent.interpolate(model.eval(), data, 4, None, seeded()).unflatten(0, (4, STEPS))
    z = seen[0].unflatten(0, (4, STEPS))
    assert all(any(torch.equal(end, event) for event in data.test) for end in x[:, [0, -1]].flatten(0, 1))
    norms = z.flatten(2).norm(dim=2)
    torch.testing.assert_close(
        norms, torch.lerp(norms[:, :1], norms[:, -1:], torch.linspace(0, 1, STEPS)), rtol=1e-4, atol=0
    )
