"""Time turned round and schedules changed after training: the velocities of the oracles, and the same states."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pyflowk.nets import Field, FunctionField, MLPField, RescheduledField, ReversedField
from pyflowk.ops.divergence import exact_divergence
from pyflowk.paths import VP, CondOT, Cosine, LinearVP, Lipman, Polynomial, Schedule
from pyflowk.solvers import Fixed, odeint
from tests.paths.oracles import PAIR

D = torch.float64
KINDS = [CondOT(), Cosine(), LinearVP(), VP(), Polynomial(2)]
PAIRS = list(itertools.permutations(KINDS, 2))


def oracle(schedule: Schedule) -> Field:
    """The velocity of a mixture on the line."""
    return FunctionField(
        lambda t, x: PAIR.predictions(x[:, 0], t.expand(len(x)), schedule)["velocity"].unsqueeze(1), conditional=False
    )


def wild() -> MLPField:
    torch.manual_seed(0)
    net = MLPField(2, 8, 2, context_dim=1).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return net


@pytest.mark.parametrize("trained, schedule", PAIRS, ids=str)
def test_the_velocity_on_another_schedule(trained: Schedule, schedule: Schedule) -> None:
    field, known = RescheduledField(oracle(trained), trained, schedule), oracle(schedule)
    x = torch.tensor([[-2.0], [0.37], [1.1], [0.0]], dtype=D)
    for t in (torch.tensor(0.6, dtype=D), torch.tensor([0.2, 0.6, 0.9, 0.99], dtype=D)):
        torch.testing.assert_close(field(t, x), known(t, x), rtol=1e-8, atol=1e-8)
    for end in (0.0, 1e-7, 1 - 1e-7, 1.0):
        for dtype in (torch.float32, D):
            found = RescheduledField(lambda t, x: torch.sin(x), trained, schedule)(torch.tensor(end), x.to(dtype))
            assert found.isfinite().all() and found.dtype == dtype


def test_both_ends_of_straight_lines_are_exact() -> None:
    """At t = 0 and 1 the velocity of a schedule from pure noise to pure data is known from the first and last means."""
    for trained, schedule in ((CondOT(), Cosine()), (Cosine(), CondOT())):
        x = torch.tensor([[-2.0], [0.37]], dtype=D)
        for end in (0.0, 1.0):
            t = torch.tensor(end, dtype=D)
            found = RescheduledField(oracle(trained), trained, schedule)(t, x)
            torch.testing.assert_close(found, oracle(schedule)(t, x), rtol=1e-8, atol=1e-8)


def solved(field: Field, x: Tensor, times: list[float], steps: int, method: str = "rk4") -> Tensor:
    return odeint(field, x, times, method=method, stepping=Fixed(steps))[-1]


def test_samples_of_another_schedule_are_the_same() -> None:
    x = torch.linspace(-2, 2, 9, dtype=D).unsqueeze(1)
    straight = solved(oracle(CondOT()), x, [0.0, 1.0], 100)
    turned = solved(RescheduledField(oracle(CondOT()), CondOT(), Cosine()), x, [0.0, 1.0], 100)
    torch.testing.assert_close(turned, straight, rtol=0, atol=1e-5)
    # half way the states are those of the trained field, scaled
    half = torch.tensor(0.5, dtype=D)
    then = CondOT().time(Cosine().log_snr(half))
    scale = Cosine().at(half).sigma / CondOT().at(then).sigma
    one = solved(RescheduledField(oracle(CondOT()), CondOT(), Cosine()), x, [0.0, 0.5], 50)
    two = solved(oracle(CondOT()), x, [0.0, then.item()], 50)
    torch.testing.assert_close(one, scale * two, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["euler", "heun2", "rk4", "dopri5"])
def test_both_directions_pass_the_same_states(method: str) -> None:
    x, net = torch.randn(5, 2, dtype=D, generator=torch.Generator().manual_seed(0)), wild()
    field = FunctionField(lambda t, x: net(t, x, torch.ones(1, 1, dtype=D)), conditional=False)
    grid = torch.linspace(0, 1, 8, dtype=D)
    there = odeint(field, x, grid, method=method, stepping=Fixed(1))
    mirrored = odeint(ReversedField(field), x, 1 - grid, method=method, stepping=Fixed(1))
    torch.testing.assert_close(mirrored, there, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ReversedField(ReversedField(field))(grid[3], x), field(grid[3], x))


@pytest.mark.parametrize("times", [0.3, (0.3, 0.6, 0.9)])
@pytest.mark.parametrize("kind", ["reversed", "rescheduled", "lipman"])
def test_contexts_tangents_and_divergences_go_through(kind: str, times: float | tuple[float, ...]) -> None:
    net, t = wild(), torch.tensor(times, dtype=D)
    wrapped: Field = {
        "reversed": lambda: ReversedField(net), "rescheduled": lambda: RescheduledField(net, CondOT(), Cosine()),
        "lipman": lambda: RescheduledField(net, VP(), Lipman(0.1)),
    }[kind]()  # fmt: skip
    x, c = torch.randn(3, 2, dtype=D), torch.randn(3, 1, dtype=D)
    e = torch.randn(3, 4, 2, dtype=D)
    plain = FunctionField(lambda t, x, c: wrapped(t, x, c))
    assert wrapped.takes_context and wrapped.fused(torch.zeros(1)) is None
    torch.testing.assert_close(wrapped.with_tangents(t, x, e, c), plain.with_tangents(t, x, e, c))
    assert wrapped.has_divergence(t) == (kind == "reversed" and t.dim() == 0)
    if wrapped.has_divergence(t):
        torch.testing.assert_close(
            wrapped.with_divergence(t, x, c), exact_divergence(lambda x: wrapped(t, x, c), x)[:2]
        )
    if t.dim() == 0:
        assert wrapped(t, x[:0], c[:0]).shape == (0, 2)
    with pytest.raises(ValueError, match="droppable"):
        wrapped.no_context()
    assert set(wrapped.state_dict()) == {f"net.{name}" for name in net.state_dict()}
