"""Code written for torchdiffeq gives torchdiffeq's answers after the change of one import."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.compat import torchdiffeq as ours

theirs = pytest.importorskip("torchdiffeq")
D = torch.float64


class Field(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        assert t.ndim == 0
        return self.net(torch.cat([y, t.expand(*y.shape[:-1], 1)], -1))


@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize(
    "method, options",
    [("dopri5", {}), ("dopri8", {}), ("bosh3", {}), ("adaptive_heun", {}), (None, {}),
     ("rk4", {"step_size": 0.05}), ("midpoint", {"step_size": 0.005})],
)  # fmt: skip
def test_values_and_gradients(interface: str, method: str | None, options: dict[str, Any]) -> None:
    f, t = Field(), torch.tensor([0.0, 0.5, 1.0], dtype=D)
    y0 = torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=D, requires_grad=True)
    found = []
    tolerance = 1e-8 if method == "bosh3" else 1e-6  # theirs passes the last time and interpolates back
    for package in (ours, theirs):
        y = getattr(package, interface)(f, y0, t, rtol=tolerance, atol=tolerance, method=method, options=options)
        found.append([y, *torch.autograd.grad(y[1:].pow(2).sum(), [y0, *f.parameters()])])
    torch.testing.assert_close(*found, rtol=2e-4, atol=2e-4)


def test_tuples_and_times_that_fall() -> None:
    state = torch.ones(3, dtype=D), torch.zeros((), dtype=D)
    f = lambda t, s: (-s[0] * t, s[0].sum())  # noqa: E731
    t = torch.tensor([1.0, 0.4, 0.0], dtype=D)
    for a, b in zip(ours.odeint(f, state, t), theirs.odeint(f, state, t)):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_events() -> None:
    results = []
    for package in (ours, theirs):
        height = torch.tensor(2.0, dtype=D, requires_grad=True)
        state = height, torch.zeros((), dtype=D)
        f = lambda t, s: (s[1], torch.full_like(s[1], -9.81))  # noqa: E731
        t, y = package.odeint_event(f, state, torch.tensor(0.0, dtype=D), event_fn=lambda t, s: s[0])
        (slope,) = torch.autograd.grad(t + y[1][-1], height)
        results.append([t, y[0], y[1], slope])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_several_events_are_told_apart_by_their_signs_at_the_start() -> None:
    """One falls to zero late, one rises to it early: the sooner counts, in either direction of time."""
    f = lambda t, y: torch.ones_like(y)  # noqa: E731
    either = lambda t, y: torch.stack([5 - y[0], y[0] - 3])  # noqa: E731
    for reverse, start in ((False, 1.0), (True, 4.0)):
        found = [
            package.odeint_event(f, torch.tensor([start], dtype=D), torch.tensor(0.5, dtype=D), event_fn=either,
                                 reverse_time=reverse)
            for package in (ours, theirs)
        ]  # fmt: skip
        torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
        assert found[0][1][-1].item() == pytest.approx(3.0)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="options: expected some of"):
        ours.odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), options={"steps_size": 1})
    with pytest.raises(ValueError, match="method: expected one of"):
        ours.odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), method="fehlberg2")
    with pytest.raises(ValueError, match=r"expected an nn.Module"):
        ours.odeint_adjoint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]))
