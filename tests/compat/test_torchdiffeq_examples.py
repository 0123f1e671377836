"""What torchdiffeq's users run, in our own words: each script once with torchdiffeq, once with the import changed.

Small relatives of its public examples: fitting a spiral, a latent ODE, an ODE net on images, a continuous flow, a
bouncing ball and its physics learnt from what was seen. The scripts know nothing of who solves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyflowk.compat import torchdiffeq as ours

theirs = pytest.importorskip("torchdiffeq")
D = torch.float64


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, dtype=D), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def trained(model: nn.Module, loss: Callable[[], Tensor], steps: int = 2) -> list[Tensor]:
    """The losses of some steps of an optimiser, and the parameters behind them."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return [torch.stack(losses), *(p.detach() for p in model.parameters())]


class OfState(nn.Module):
    """A network on a power of the state that counts its calls, as such fields do."""

    def __init__(self, width: int, power: int = 1) -> None:
        super().__init__()
        self.net, self.power, self.calls = mlp(width, 16, width), power, 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        assert t.shape == ()
        self.calls += 1
        return self.net(y**self.power)


def spiral(odeint: Callable[..., Any], package: ModuleType) -> list[Tensor]:
    """Trajectories of y' = A y^3 are cut into short ones, which a network is fitted to."""
    A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=D)
    t = torch.linspace(0.0, 3.0, 40, dtype=D)

    class Truth(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.mm(y**3, A)

    with torch.no_grad():
        seen = odeint(Truth(), torch.tensor([[2.0, 0.0]], dtype=D), t, method="dopri5")
    starts = torch.arange(0, 30, 5)
    pieces = torch.stack([seen[starts + i] for i in range(8)])
    f = OfState(2, power=3)
    found = trained(f, lambda: (odeint(f, seen[starts], t[:8]) - pieces).abs().mean())
    assert f.calls > 3
    return [seen, *found]


def latent(odeint: Callable[..., Any], package: ModuleType) -> list[Tensor]:
    """An encoder reads noisy series backward, its sample is carried along by the field, a decoder reads that off."""
    t = torch.tensor([0.0, 0.1, 0.45, 0.5, 1.3], dtype=D)
    series = torch.stack([torch.sin(3 * t + phase) for phase in (0.1, 0.7, 1.9)])[..., None]
    f, encoder, decoder = OfState(4), nn.GRU(1, 8, batch_first=True, dtype=D), mlp(4, 1)
    noise = torch.randn(3, 4, dtype=D)

    def loss() -> Tensor:
        mean, spread = encoder(series.flip(1))[1][0].chunk(2, 1)
        z0 = mean + spread.exp() * noise
        found = decoder(odeint(f, z0, t, rtol=1e-6, atol=1e-8).permute(1, 0, 2))
        kl = 0.5 * (mean**2 + (2 * spread).exp() - 1 - 2 * spread).sum(1)
        return ((found - series) ** 2).sum() + kl.mean()

    return trained(nn.ModuleList([f, encoder, decoder]), loss)


def images(odeint: Callable[..., Any], package: ModuleType) -> list[Tensor]:
    """A block of convolutions, the time as one more channel, between a stem and a classifier."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(5, 4, 3, padding=1, dtype=D), nn.GroupNorm(2, 4, dtype=D)

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return self.norm(self.conv(torch.cat([torch.ones_like(x[:, :1]) * t, torch.tanh(x)], 1)))

    stem, block, head = nn.Conv2d(1, 4, 3, stride=2, dtype=D), Block(), nn.Linear(4, 3, dtype=D)
    x, labels = torch.randn(4, 1, 9, 9, dtype=D), torch.tensor([0, 2, 1, 2])
    span = torch.tensor([0, 1]).double()

    def loss() -> Tensor:
        end = odeint(block, stem(x), span, rtol=1e-6, atol=1e-6)[1]
        return nn.functional.cross_entropy(head(end.mean((2, 3))), labels)

    return trained(nn.ModuleList([stem, block, head]), loss)


def flow(odeint: Callable[..., Any], package: ModuleType) -> list[Tensor]:
    """A density by the trace of the Jacobian, which the field takes with autograd of its own; solved backward."""

    class WithTrace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(3, 16, 2)

        def forward(self, t: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            z = states[0]
            with torch.set_grad_enabled(True):
                z.requires_grad_(True)
                dz = self.net(torch.cat([z, t.expand(len(z), 1)], 1))
                rows = [torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0] for i in range(2)]
            return dz, -sum(row[:, i] for i, row in enumerate(rows)).reshape(-1, 1)

    f, x = WithTrace(), torch.randn(16, 2, dtype=D)
    times = torch.tensor([2.0, 0.0], dtype=D)

    def loss() -> Tensor:
        z, change = odeint(f, (x, torch.zeros(16, 1, dtype=D)), times, atol=1e-7, rtol=1e-7, method="dopri5")
        return -(torch.distributions.Normal(0.0, 1.0).log_prob(z[-1]).sum(1) - change[-1][:, 0]).mean()

    found = trained(f, loss)
    with torch.no_grad():  # samples: forward, with what lies between
        path, _ = odeint(f, (x, torch.zeros(16, 1, dtype=D)), torch.linspace(0.0, 2.0, 5, dtype=D), method="dopri5")
    return [*found, path]


class Ball(nn.Module):
    """A ball that falls, and bounces with a loss; what its event depends on is part of the state."""

    def __init__(self) -> None:
        super().__init__()
        numbers = {"gravity": 9.8, "log_radius": -1.6, "t0": 0.0, "height": 3.0, "speed": 0.5, "loss": 0.2}
        for name, number in numbers.items():
            setattr(self, name, nn.Parameter(torch.tensor([number], dtype=D)))

    def forward(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        _, velocity, log_radius = state
        return velocity, -self.gravity, torch.zeros_like(log_radius)

    def touches(self, t: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        return state[0] - state[2].exp()

    def bounced(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return state[0] + 1e-7, -state[1] * (1 - self.loss), state[2]


def bounces(odeint: Callable[..., Any], package: ModuleType) -> list[Tensor]:
    """Times of three bounces, their gradients, and the path between them with the times that were found."""
    ball = Ball()
    start = (ball.height, ball.speed, ball.log_radius)
    t, state, times, path = ball.t0, start, [], []
    for _ in range(3):
        event, solution = package.odeint_event(
            ball, state, t, event_fn=ball.touches, reverse_time=False, atol=1e-9, rtol=1e-9, odeint_interface=odeint
        )
        between = torch.cat([t.reshape(-1), torch.linspace(float(t), float(event), 5, dtype=D)[1:-1], event[None]])
        path.append(odeint(ball, state, between, atol=1e-9, rtol=1e-9)[0])
        t, state = event, ball.bounced(tuple(s[-1] for s in solution))
        times.append(event)
    gradients = torch.autograd.grad(torch.stack(times) @ torch.tensor([1.0, 0.5, 2.0], dtype=D) + state[1].sum(),
                                    list(ball.parameters()))  # fmt: skip
    return [torch.stack(times), torch.cat(path), *gradients]


def physics(odeint: Callable[..., Any], package: ModuleType) -> list[Tensor]:
    """Force, radius and bounce are learnt from positions; the event also says where what was seen ends."""

    class Physics(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.force, self.kept = nn.Linear(1, 1, dtype=D), nn.Linear(1, 1, dtype=D)
            self.root, self.height = (nn.Parameter(torch.tensor([x], dtype=D)) for x in (0.4, 2.5))
            nn.init.ones_(self.kept.bias)

        def forward(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            _, velocity, root = state
            return velocity, -8 + torch.tanh(self.force(torch.zeros_like(velocity))), torch.zeros_like(root)

    model = Physics()
    seen = torch.linspace(0.0, 1.8, 10, dtype=D)
    heights = (3 - 4.9 * seen**2).abs()

    def stops(t: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        if t > seen[-1] + 1e-7:
            return torch.zeros_like(t)
        return state[0] - state[2] ** 2

    counts: list[int] = []

    def loss() -> Tensor:
        t, path = torch.zeros(1, dtype=D), [model.height]
        state: tuple[Tensor, ...] = (model.height, torch.zeros(1, dtype=D), model.root)
        counts.append(0)
        while t < seen[-1] and counts[-1] < 5:
            event, solution = package.odeint_event(
                model, state, t, event_fn=stops, atol=1e-8, rtol=1e-8, method="dopri5", odeint_interface=odeint
            )
            here = torch.cat([t.reshape(-1), seen[(seen > t) & (seen <= event)]])
            path.append(odeint(model, state, here, atol=1e-8, rtol=1e-8)[0][1:].reshape(-1))
            position, velocity, root = (s[-1] for s in solution)
            velocity = -torch.sigmoid(model.kept(torch.ones_like(velocity))) * velocity
            state, t = (position + 1e-7 * velocity, velocity, root), event
            counts[-1] += 1
        return (torch.cat(path) - heights).abs().mean()

    found = trained(model, loss, steps=2)
    assert counts == [2, 2]
    return found


SCRIPTS = [spiral, latent, images, flow, bounces, physics]


@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_scripts_run_after_the_change_of_one_import(script: Callable[..., list[Tensor]], interface: str) -> None:
    results = []
    for package in (ours, theirs):
        torch.manual_seed(0)
        results.append(script(getattr(package, interface), package))
    torch.testing.assert_close(*results, rtol=2e-4, atol=2e-5)
