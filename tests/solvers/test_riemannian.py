"""Equations on manifolds: orders, states that stay there, densities of known flows."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.distributions import uniform_on
from pyflowk.manifolds import Manifold, Sphere, Torus, manifold
from pyflowk.nets import TangentField
from pyflowk.solvers import Adaptive, Fixed, manifold_odeint

UP = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
SPHERE = Sphere((3,))


def points(space: Manifold, rows: int) -> Tensor:
    return uniform_on(space).double().sample(rows, generator=torch.Generator().manual_seed(0))


def rising(t: Tensor, x: Tensor) -> Tensor:
    """The gradient of height <a, x>: artanh of the height grows by 1 per unit of time."""
    return UP - (x @ UP)[:, None] * x


def risen(x: Tensor, time: float) -> Tensor:
    height = x @ UP
    new = torch.tanh(torch.atanh(height) + time)
    aside = x - height[:, None] * UP
    return new[:, None] * UP + aside * ((1 - new**2) / (1 - height**2)).sqrt()[:, None]


@pytest.mark.parametrize("method, order", [("euler", 1), ("midpoint", 2), ("heun2", 2), ("rk4", 4), ("dopri5", 5)])
@pytest.mark.parametrize("name", ["sphere", "so3"])
def test_observed_orders(method: str, order: int, name: str) -> None:
    space = manifold(name, (3,) if name == "sphere" else (3, 3))
    x = points(space, 8)
    if name == "sphere":
        field, exact = rising, risen(x, 1.5)
    else:  # spun about an axis that itself swings, so that no step is exact
        spins = manifold("so3", (3, 3)).basis(space.origin(torch.float64)[None])[0]

        def field(t: Tensor, x: Tensor) -> Tensor:
            return 2 * (torch.cos(3 * t) * spins[0] + torch.sin(2 * t) * spins[1] + x[..., :1] * spins[2]) @ x

        exact = manifold_odeint(field, x, [0.0, 1.5], space, method="dopri8", stepping=Fixed(50))[-1]
    errors = [
        space.distance(manifold_odeint(field, x, [0.0, 1.5], space, method=method, stepping=Fixed(n))[-1], exact).max()
        for n in (10, 20, 40)
    ]
    observed = [math.log2(a / b) for a, b in pairwise(errors)]
    assert order - 0.3 < observed[-1] < order + 1


@pytest.mark.parametrize("name, shape", [("sphere", (3,)), ("so3", (3, 3)), ("sphere(2) x torus(2)", (4,))])
def test_states_stay_on_the_manifold(name: str, shape: tuple[int, ...]) -> None:
    """After a thousand steps in float32, at every time asked for; what the field says beside the tangent is ignored."""
    space = manifold(name, shape)
    x = points(space, 4).float()
    for method, steps in (("euler", 250), ("rk4", 10)):
        found = manifold_odeint(
            lambda t, x: 3 + x.flip(0), x, torch.linspace(0, 1, 5), space, method=method, stepping=Fixed(steps)
        )
        assert found.shape == (5, 4, *shape) and torch.equal(found[0], x)
        assert max(space.off(state).max().item() for state in found) < 1e-6


def test_eulers_steps_are_geodesics() -> None:
    """One of them goes half round, as a projection never does; on a torus as on a line."""
    x, v = torch.eye(3)[:1], math.pi * torch.eye(3)[1:2]
    end = manifold_odeint(lambda t, x: v, x, [0.0, 1.0], SPHERE, method="euler", stepping=Fixed(1))[-1]
    torch.testing.assert_close(end, -x, rtol=0, atol=1e-6)
    turned = manifold_odeint(lambda t, x: torch.full_like(x, 7.0), torch.zeros(1, 1), [0.0, 1.0], Torus((1,)))[-1]
    torch.testing.assert_close(turned, torch.tensor([[7 - 2 * math.pi]]))


@pytest.mark.parametrize("options", [
    {"method": "rk4", "stepping": Fixed(100)}, {"method": "dopri5", "stepping": Adaptive(1e-9, 1e-9)},
    {"method": "adams4", "stepping": Fixed(150)},
], ids=["rk4", "adaptive", "adams"])  # fmt: skip
def test_the_density_of_a_known_flow(options: dict[str, Any]) -> None:
    """Rising from the even density, log p grows by the integral of 2 <a, x>, that is 2 log cosh of artanh of height."""
    x = points(SPHERE, 20)
    field = TangentField(lambda t, x: UP.expand_as(x), SPHERE)

    def both(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return field.with_divergence(t.reshape(-1) if t.dim() else t, y[0])

    end, ladj = manifold_odeint(both, (x, x.new_zeros(20)), [0.0, 1.5], SPHERE, **options)
    torch.testing.assert_close(end[-1], risen(x, 1.5), rtol=0, atol=1e-6)
    level = torch.atanh(x @ UP)
    growth = 2 * (torch.cosh(level + 1.5).log() - torch.cosh(level).log())
    torch.testing.assert_close(-ladj[-1], growth, rtol=0, atol=1e-6)
    back = manifold_odeint(rising, end[-1], [1.5, 0.0], SPHERE, **options)[-1]
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


def test_gradients_and_rows() -> None:
    x = points(SPHERE, 5)
    speed = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def end(speed: Tensor) -> Tensor:
        return manifold_odeint(lambda t, x: speed * rising(t, x), x, [0.0, 1.0], SPHERE, stepping=Fixed(8))[-1]

    assert torch.autograd.gradcheck(end, speed)
    assert torch.equal(end(speed)[:1], manifold_odeint(
        lambda t, x: speed * rising(t, x), x[:1], [0.0, 1.0], SPHERE, stepping=Fixed(8))[-1])  # fmt: skip
    x[2, 0] = math.nan
    assert end(speed).isnan().any(1).tolist() == [False, False, True, False, False]
    assert manifold_odeint(rising, x[:0], [0.0, 1.0], SPHERE, stepping=Fixed(3)).shape == (2, 0, 3)


def test_what_does_not_fit_is_named() -> None:
    x = points(SPHERE, 2)
    with pytest.raises(ValueError, match=r"y0: expected points \(B, \*\(3,\)\), got \(2, 2\)"):
        manifold_odeint(rising, x[:, :2], [0.0, 1.0], SPHERE)
    with pytest.raises(ValueError, match=r"stepping: expected Fixed"):
        manifold_odeint(rising, x, [0.0, 1.0], SPHERE, method="rk4", stepping=Adaptive())
    with pytest.raises(ValueError, match=r"field: expected the state's shape"):
        manifold_odeint(lambda t, x: x[:, :2], x, [0.0, 1.0], SPHERE)
    with pytest.raises(ValueError, match="method"):
        manifold_odeint(rising, x, [0.0, 1.0], SPHERE, method="rk5")
