"""Flow maps held to the exact one of Gaussian data: floors of the losses, and what a network learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.nets import Field, FlowMap, MLPField
from pyflowk.objectives import FLOW_MAPS, FlowMapMatching
from pyflowk.objectives.flow_map import CURRICULA
from pyflowk.paths import UniformTimes
from tests.solvers.gaussian import ExactMap, ExactShares, M, S, deviation

T, END = 0.3, 0.9


def at(time: float) -> Any:
    return lambda n, generator, *, dtype, device: torch.full((n,), time, dtype=dtype, device=device)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(n: int, seed: int = 0) -> Tensor:
    return M + S * torch.randn(n, 1, dtype=torch.float64, generator=seeded(seed))


def loss(name: str, field: FlowMap | None = None, **settings: Any) -> Tensor:
    """Of the exact map between two times, unweighted, of rows of which all have an interval."""
    told: dict[str, Any] = {**FLOW_MAPS[name], "fm_fraction": 0.0, "power": 0.0, "times": at(T), "ends": at(END)}
    return FlowMapMatching(**{**told, **settings})(field or FlowMap(ExactMap()), data(20_000, 1), generator=seeded())


def test_the_exact_map_is_at_the_floor_of_every_objective() -> None:
    now, then = (deviation(torch.tensor(t, dtype=torch.float64)) for t in (T, END))
    variance = S**2 / now**2  # of the velocities that pass through one place
    floors = {"mean_flow": (then / now) ** 2 * variance, "improved_mean_flow": variance}
    for name, floor in floors.items():
        errors = loss(name)
        assert abs(errors.mean() - floor) < 4 * errors.std() / len(errors) ** 0.5
    assert loss("terminal_velocity").max() < 1e-20 and loss("split_mean_flow").max() < 1e-20
    flat = loss("mean_flow", fm_fraction=1.0)
    assert abs(flat.mean() - variance) < 4 * flat.std() / len(flat) ** 0.5
    apart = [loss("terminal_velocity", derivative="difference", step=a).mean().sqrt() for a in (0.02, 0.01)]
    torch.testing.assert_close(apart[0] / apart[1], torch.tensor(2.0, dtype=torch.float64), rtol=0.05, atol=0.0)


def test_differences_tend_to_the_derivative() -> None:
    """The target of alpha-Flow, divided by its step, less that of MeanFlow: half of it at half the step."""
    teacher = FlowMap(ExactMap())  # whose velocity has no noise
    apart = [loss("alpha_flow", step=a, teacher=teacher).mean().sqrt() for a in (0.02, 0.01)]
    torch.testing.assert_close(apart[0] / apart[1], torch.tensor(2.0, dtype=torch.float64), rtol=0.05, atol=0.0)
    assert loss("mean_flow", teacher=teacher).max() < 1e-20  # distilled: no noise is left


def test_the_exact_divergence_and_the_way_back_are_at_the_floor_too() -> None:
    """In both directions, with a share for coming back; and a divergence that is not exact shows."""

    class Off(ExactShares):
        def forward(self, *arguments: Any, **more: Any) -> Tensor:
            return super().forward(*arguments, **more) + torch.tensor([0.0, 0.1], dtype=torch.float64)

    teacher, told = FlowMap(ExactMap()), {"reversible": True, "divergence": True}
    exact, off = (FlowMap(net(), **told) for net in (ExactShares, Off))
    for name, more in (("mean_flow", {"teacher": teacher}), ("terminal_velocity", {}), ("split_mean_flow", {})):
        for probes in (1, None):
            assert loss(name, exact, cycle=1.0, probes=probes, fm_fraction=0.0, **more).max() < 1e-20
    floor = 0.1**2  # of the share that is off by 0.1 everywhere, whatever else is exact
    torch.testing.assert_close(loss("terminal_velocity", off), torch.full((20_000,), floor, dtype=torch.float64))
    with pytest.raises(ValueError, match="cycle: expected 0 for a FlowMap that is not reversible; got 1"):
        loss("mean_flow", cycle=1.0)


@pytest.mark.parametrize("name", ["mean_flow", "terminal_velocity", "split_mean_flow"])
def test_what_a_network_learns_jumps_to_the_data(name: str) -> None:
    """And back, where it learns that, with its log-determinant."""
    torch.manual_seed(0)
    both = name == "mean_flow"
    net = MLPField(1, 32, 2, "silu", interval=True, outputs=1 + both)
    field = FlowMap(net, reversible=both, divergence=both)
    objective = FlowMapMatching(times=UniformTimes(), cycle=0.1 * both, **FLOW_MAPS[name])
    optimizer, x = torch.optim.Adam(field.parameters(), 1e-2), data(4096).float()
    plan, draws = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200), seeded()
    for _ in range(200):
        rows = x[torch.randint(len(x), (256,), generator=draws)]
        optimizer.zero_grad()
        objective(field, rows, generator=draws, reduction="mean").backward()
        optimizer.step()
        plan.step()
    x0 = torch.linspace(-2, 2, 9)[:, None]
    with torch.no_grad():
        jumped, known = field.jump(0.0, x0, end=1.0), M + S * x0
    assert (jumped - known).abs().max() < 0.4 and (field(0.0, x0) + x0 - known).abs().max() > 1
    if both:
        with torch.no_grad():
            noise, ladj = field.jump_with_learned_ladj(1.0, known, end=0.0)
        assert (noise - x0).abs().max() < 0.6 and (ladj - math.log(1 / S)).abs().max() < 0.4


def test_shares_of_small_batches_hold_on_average_and_curricula_end_where_they_should() -> None:
    objective, draws = FlowMapMatching(fm_fraction=0.75), seeded()
    assert objective._matched(256, None, torch.device("cpu")) == 192
    counts = [objective._matched(n, draws, torch.device("cpu")) for _ in range(400) for n in (1, 2, 3)]
    assert abs(sum(counts) / 400 / 6 - 0.75) < 0.03 and {*counts} == {0, 1, 2, 3}
    steps = [[CURRICULA[name](part) for part in (0.0, 0.5, 1.0)] for name in ("alpha_flow", "soflow")]
    assert steps[0][0] > 0.999 and steps[0][1:] == [0.5, 0.0]
    assert steps[1] == pytest.approx([0.1, 0.1 * 0.02**0.5, 0.002])
    now = FlowMapMatching(**FLOW_MAPS["soflow"])
    field, x = FlowMap(ExactMap()), data(8)
    exact = FlowMapMatching(fm_fraction=0.5)(field, x, generator=seeded())
    torch.testing.assert_close(now(field, x, generator=seeded(), step=0.0), exact)


def test_times_fm_fraction_and_order() -> None:
    like: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    for order in ("mask", "sort", "clamp"):
        objective = FlowMapMatching(times=UniformTimes(), ends=UniformTimes(), order=order, fm_fraction=0.5)
        t, end = objective._intervals(20_000, 10_000, seeded(), **like)
        assert torch.equal(t[:10_000], end[:10_000]) and (t <= end).all() and end.max() < 1
        means = [t[:10_000].mean(), t[10_000:].mean(), end[10_000:].mean()]
        known = {"mask": (1 / 2, 1 / 3, 2 / 3), "sort": (1 / 3, 1 / 3, 2 / 3), "clamp": (1 / 2, 1 / 2, 2 / 3)}
        torch.testing.assert_close(
            torch.stack(means), torch.tensor(known[order], dtype=torch.float64), rtol=0, atol=0.02
        )


class Told(Field):
    """Velocity c where the label is c, and 10 without one."""

    hears_end = True

    def forward(self, t: Any, x: Tensor, context: Any = None, end: Any = None) -> Tensor:
        return torch.where(context == 9, 10.0, context.double())[:, None].expand_as(x)

    def no_context(self) -> Tensor:
        return torch.tensor([9])


def test_guidance_is_learned() -> None:
    """The velocity held: (1 - k)(v + w (v - 10)) + k c within the guidance's times, v for rows without a label."""
    field, x, labels = FlowMap(Told()), data(6, 2), torch.tensor([0, 1, 2, 3, 4, 5])
    settings: dict[str, Any] = {"fm_fraction": 1.0, "power": 0.0, "times": at(T)}

    def squares(labels: Tensor = labels, **more: Any) -> Tensor:
        return FlowMapMatching(**settings, **more)(field, x, labels, generator=seeded())

    c = labels.double()
    v = c + 0.5 * (1 - squares(labels + 1) + squares())  # (v - c - 1)^2 = (v - c)^2 - 2 (v - c) + 1
    guided = 0.75 * (v + 2.0 * (v - 10)) + 0.25 * c
    torch.testing.assert_close(squares(guidance=2.0, guidance_mix=0.25), (guided - c).square())
    torch.testing.assert_close(squares(guidance=2.0, guidance_times=(0.5, 1.0)), squares())
    torch.testing.assert_close(squares(guidance=2.0, dropout=1.0), squares(dropout=1.0))


def test_weights_and_errors() -> None:
    field = FlowMap(ExactMap())
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)

    class Shifted(ExactMap):
        def forward(self, *arguments: Any, **more: Any) -> Tensor:
            return super().forward(*arguments, **more) + bias

    found = []
    for settings in ({"power": 0.0}, {"power": 0.75, "offset": 1e-3}):
        errors = FlowMapMatching(**settings)(FlowMap(Shifted()), data(4), generator=seeded())  # type: ignore[arg-type]
        found.append((errors, torch.stack([torch.autograd.grad(e, bias, retain_graph=True)[0] for e in errors])))
    (plain, slope), (weighted, less) = found
    torch.testing.assert_close(weighted, plain)  # the weights are those of the gradient
    torch.testing.assert_close(less[:, 0], slope[:, 0] / (plain.detach() + 1e-3) ** 0.75)
    own = FlowMapMatching(power=0.0, tangent="own")(field, data(5), generator=seeded())
    torch.testing.assert_close(FlowMapMatching()(field.eval(), data(5), generator=seeded()), own)
    with pytest.raises(TypeError, match=r"net: expected a pyflowk\.nets\.FlowMap"):
        FlowMapMatching()(MLPField(1, 4, 1), data(5))
    for settings, match in (
        ({"condition": "langrangian"}, "condition: expected one of eulerian"),
        ({"prediction": "data"}, "prediction: expected velocity"),
        ({"fm_fraction": 1.5}, "fm_fraction and step up to 1"),
        ({"step": 0.0}, "step above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            FlowMapMatching(**settings)  # type: ignore[arg-type]
