"""Fields of tangent vectors: their divergence is the manifold's, whatever the network says beside it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vmap

from pyflowk.distributions import uniform_on
from pyflowk.manifolds import Manifold, Product, Sphere, Torus, manifold
from pyflowk.nets import MLPField, TangentField
from pyflowk.ops.divergence import draw_probes, hutchinson

SPACES = [("sphere", (3,)), ("sphere", (2, 2)), ("torus", (2,)), ("so3", (3, 3)),
          ("sphere(3) x torus(1) x so3 x euclidean(1)", (14,))]  # fmt: skip
spaces = pytest.mark.parametrize("space", [manifold(*each) for each in SPACES], ids=[name for name, _ in SPACES])
NOW = torch.tensor(0.3, dtype=torch.float64)


def points(space: Manifold, rows: int) -> Tensor:
    return uniform_on(space).double().sample(rows, generator=torch.Generator().manual_seed(0))


def net(space: Manifold, context_dim: int | None = None) -> TangentField:
    torch.manual_seed(0)
    field = MLPField(space.embedded, 16, 2, context_dim=context_dim).double()
    for p in field.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return TangentField(field, space)


@spaces
def test_values_are_tangent_and_constant_along_normals(space: Manifold) -> None:
    x, field = points(space, 6), net(space)
    v = field(NOW, x)
    torch.testing.assert_close(space.tangent(x, v), v, rtol=1e-12, atol=1e-12)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    normal = noise - space.tangent(x, noise)
    images = field.with_tangents(NOW, x, normal.unsqueeze(1))[1]
    torch.testing.assert_close(images, torch.zeros_like(images), rtol=0, atol=1e-10)


@spaces
def test_divergence_is_that_of_the_surrounding_space(space: Manifold) -> None:
    """The trace of the whole Jacobian, whose normal part is none; near the manifold as on it."""
    x, field = points(space, 5), net(space, 2)
    context = torch.randn(5, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    jacobian = (
        vmap(jacrev(lambda x, c: field(NOW, x[None], c[None])[0]))(x, context).flatten(len(x.shape)).flatten(1, -2)
    )
    trace = jacobian.diagonal(dim1=1, dim2=2).sum(1)
    value, divergence = field.with_divergence(NOW, x, context)
    torch.testing.assert_close(value, field(NOW, x, context))
    torch.testing.assert_close(divergence, trace, rtol=1e-9, atol=1e-9)
    nearby = x + 1e-3 * (x - space.tangent(x, x))
    if not isinstance(space, (Torus, Product)):
        torch.testing.assert_close(field.with_divergence(NOW, nearby, context)[1], divergence, rtol=1e-9, atol=1e-9)
    every = torch.eye(x[0].numel(), dtype=torch.float64).reshape(-1, *space.shape).expand(5, -1, *space.shape)
    images = field.with_tangents(NOW, x, every, context)[1]
    torch.testing.assert_close((images * every).flatten(1).sum(1), trace, rtol=1e-9, atol=1e-9)


def test_probes_estimate_it() -> None:
    space = Sphere((3,))
    x, field = points(space, 3), net(space)
    probes = draw_probes(x, 4000, "rademacher", torch.Generator().manual_seed(0))
    estimate = hutchinson(lambda x: field(NOW, x), x, probes, tangents=lambda x, e: field.with_tangents(NOW, x, e))[1]
    torch.testing.assert_close(estimate, field.with_divergence(NOW, x)[1], rtol=0, atol=0.1)


def test_known_divergences() -> None:
    """Of the gradient of height, -2 <a, x> on the sphere; of a turn of the circle, however fast, 0."""
    x = points(Sphere((3,)), 9)
    up = torch.tensor([0.3, -0.2, 1.7], dtype=torch.float64)
    rising = TangentField(lambda t, x: up.expand_as(x), Sphere((3,)))
    torch.testing.assert_close(rising.with_divergence(NOW, x)[1], -2 * x @ up)
    circle = Sphere((2,))
    turning = TangentField(lambda t, x: 3 * torch.stack((-x[:, 1], x[:, 0]), 1), circle)
    assert turning.with_divergence(NOW, points(circle, 9))[1].abs().max() < 1e-14
    torus = Torus((1,))  # d/dx of sin 2 x, seen as cosine and sine
    wave = TangentField(lambda t, e: 2 * (e[:, :1] * e[:, 1:]) * torch.cat((-e[:, 1:], e[:, :1]), 1), torus)
    x = points(torus, 9)
    value, divergence = wave.with_divergence(NOW, x)
    torch.testing.assert_close(value, torch.sin(2 * x))
    torch.testing.assert_close(divergence, 2 * torch.cos(2 * x[:, 0]))


def test_a_turn_of_all_rotations_keeps_their_volume() -> None:
    space = manifold("so3", (3, 3))
    spin = torch.tensor([[0.0, -1.0, 0.2], [1.0, 0.0, 0.0], [-0.2, 0.0, 0.0]], dtype=torch.float64)
    field = TangentField(lambda t, x: (spin @ x.reshape(-1, 3, 3)).reshape(len(x), 9), space)
    value, divergence = field.with_divergence(NOW, x := points(space, 9))
    torch.testing.assert_close(value, spin @ x)
    assert divergence.abs().max() < 1e-13


def test_rows_nan_and_times() -> None:
    space = Sphere((3,))
    x, field = points(space, 4), net(space)
    times = torch.linspace(0, 1, 4, dtype=torch.float64)
    rows = torch.cat([field(t, row[None]) for t, row in zip(times, x, strict=True)])
    torch.testing.assert_close(field(times, x), rows)
    assert field(NOW, x[:0]).shape == (0, 3) and field.with_divergence(NOW, x[:0])[1].shape == (0,)
    x[1, 0] = math.nan
    assert field(NOW, x).isnan().any(1).tolist() == [False, True, False, False]
    with pytest.raises(TypeError, match="TangentField expects a manifold"):
        TangentField(field, "sphere")  # type: ignore[arg-type]
