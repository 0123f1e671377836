"""Flow maps: the exact one of Gaussian data; networks that hear two times against torch.func.jvp and differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jvp

from pyflowk.nets import ConvField, DiT, Field, FlowMap, MLPField, UNet
from tests.solvers.gaussian import ExactMap, ExactShares, M, deviation

CASES: dict[str, Callable[..., Field]] = {
    "mlp": lambda **c: MLPField(3, 8, 2, interval=True, **c),
    "mlp-gated": lambda **c: MLPField(3, 8, 2, "silu", "concatsquash", interval=True, **c),
    "conv": lambda **c: ConvField(2, 4, 1, interval=True, **c),
    "unet": lambda **c: UNet(2, 8, (1, 2), 1, (1,), time_scale=2.0, interval=True, **c),
    "dit": lambda **c: DiT(2, 2, 8, 1, 2, time_scale=2.0, interval=True, **c),
}


def test_the_exact_map_fulfils_all_three_identities() -> None:
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, m, s = torch.rand(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).sort(0).values
    field, gap = FlowMap(ExactMap()), (s - t)[:, None]
    v, tight = field(t, x), {"rtol": 1e-10, "atol": 1e-10}
    u, along = field.derivative(t, x, v, end=s, rate=1.0)
    torch.testing.assert_close(u, v + gap * along, **tight)
    u, at_the_end = field.derivative(t, x, torch.zeros_like(x), end=s, end_rate=1.0)
    there = field.jump(t, x, end=s)
    torch.testing.assert_close(u + gap * at_the_end, field(s, there), **tight)
    torch.testing.assert_close(field.jump(m, field.jump(t, x, end=m), end=s), there, **tight)
    golden = field.jump(0.1, torch.tensor([[0.3]], dtype=torch.float64), end=0.8)
    now, then = (deviation(torch.tensor(t, dtype=torch.float64)) for t in (0.1, 0.8))
    torch.testing.assert_close(golden, (0.8 * M + then / now * (0.3 - 0.1 * M)).reshape(1, 1), **tight)


def test_the_divergence_of_the_exact_map_fulfils_them_too_forwards_and_backwards() -> None:
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, m, s = torch.rand(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    field, gap = FlowMap(ExactShares(), reversible=True, divergence=True), (s - t)[:, None]
    here, tight = field.answer(t, x), {"rtol": 1e-10, "atol": 1e-10}
    answer, along = field.answer_along(t, x, field(t, x), end=s, rate=1.0)
    torch.testing.assert_close(answer, here + gap * along, **tight)
    at_the_end = field.answer_along(t, x, torch.zeros_like(x), end=s, end_rate=1.0)[1]
    there = field.jump(t, x, end=s)
    torch.testing.assert_close(answer + gap * at_the_end, field.answer(s, there), **tight)
    (middle, first), (last, second) = (field.jump_with_learned_ladj(t, x, end=m), field.jump_with_learned_ladj(
        m, field.jump(t, x, end=m), end=s))  # fmt: skip
    assert middle.shape == x.shape
    both, ladj = field.jump_with_ladj(t, x, end=s)
    torch.testing.assert_close((last, first + second), (both, ladj), **tight)
    torch.testing.assert_close(field.with_divergence(t, x)[1], here[:, 2:].sum(1), **tight)
    golden = field.answer(0.1, torch.zeros(1, 1, dtype=torch.float64), end=0.8)[0, 1].item()
    assert abs(golden + 1.0012846769) < 1e-10
    with pytest.raises(ValueError, match=r"expected t and end within 0, noise, and 1, data; got times from -0\.1"):
        field.jump(0.5, x, end=-0.1)
    with pytest.raises(ValueError, match="expected a FlowMap that tells a divergence"):
        FlowMap(ExactMap()).jump_with_learned_ladj(0.1, x, end=0.8)


def test_the_log_determinant_of_a_jump() -> None:
    """In one dimension by the golden number of N(1, 0.5^2) from 0.1 to 0.8, in three by the Jacobian of a network."""
    x = torch.tensor([[0.3]], dtype=torch.float64)
    there, ladj = FlowMap(ExactMap()).jump_with_ladj(0.1, x, end=0.8)
    torch.testing.assert_close(there, FlowMap(ExactMap()).jump(0.1, x, end=0.8))
    torch.testing.assert_close(ladj, torch.tensor([-0.7008992738], dtype=torch.float64), rtol=0, atol=1e-10)
    field, x = made("mlp", classes=3)
    labels, t, end = (
        torch.tensor([0, 2, 1]),
        torch.tensor([0.0, 0.4, 0.7]).double(),
        torch.tensor([0.5, 0.4, 1.0]).double(),
    )
    there, ladj = field.jump_with_ladj(t, x, labels, end=end)
    torch.testing.assert_close(there, field.jump(t, x, labels, end=end))
    jacobian = torch.autograd.functional.jacobian(lambda x: field.jump(t, x, labels, end=end), x)
    own = jacobian.diagonal(dim1=0, dim2=2).movedim(2, 0)  # rows see themselves alone
    torch.testing.assert_close(ladj, own.det().abs().log())


@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_predictions_of_data_are_those_of_the_velocity(prediction: str) -> None:
    """Of the exact map's data too: x + (1 - t) u, clipped beside the end, with its tangents."""

    class Told(ExactMap):
        def forward(self, t: Any, x: Tensor, context: Any = None, end: Any = None) -> Tensor:
            u = super().forward(t, x, context, end)
            left = 1 - torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1)
            return u if prediction == "velocity" else x + left * u

    x, t = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0.0, 0.3, 0.6, 0.9], dtype=torch.float64)
    field, e = FlowMap(Told(), prediction), torch.randn(4, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(field(t, x, end=t + 0.1), FlowMap(ExactMap())(t, x, end=t + 0.1))
    torch.testing.assert_close(field.with_tangents(t, x, e), FlowMap(ExactMap()).with_tangents(t, x, e))
    torch.testing.assert_close(field.with_divergence(t, x), FlowMap(ExactMap()).with_divergence(t, x))
    both = [map.derivative(t, x, e[:, 0], None, t + 0.1, rate=1.0) for map in (field, FlowMap(ExactMap()))]
    torch.testing.assert_close(*both)


def made(name: str, **context: Any) -> tuple[FlowMap, Tensor]:
    torch.manual_seed(0)
    net = CASES[name](**context).double()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
    shape = (3, 3) if name.startswith("mlp") else (3, 2, 4, 6)
    return FlowMap(net), torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_networks_hear_both_times(name: str) -> None:
    field, x = made(name, classes=3)
    labels, t = torch.tensor([0, 2, 1]), torch.tensor([0.0, 0.4, 0.7], dtype=torch.float64)
    end, e = t + torch.tensor([0.0, 0.3, 0.3], dtype=torch.float64), torch.randn_like(x)
    u = field(t, x, labels, end)
    torch.testing.assert_close(u[:1], field(t[:1], x[:1], labels[:1]))  # no gap: the velocity
    assert not torch.allclose(u[1:], field(t[1:], x[1:], labels[1:]))
    value, moved = field.derivative(t, x, e, labels, end, rate=1.0, end_rate=-0.5)
    torch.testing.assert_close(value, u)
    of_t = jvp(lambda t: field.net(t, x, labels, end=end), (t,), (torch.ones_like(t),))[1]
    of_x = jvp(lambda x: field.net(t, x, labels, end=end), (x,), (e,))[1]
    of_end = jvp(lambda end: field.net(t, x, labels, end=end), (end,), (torch.ones_like(end),))[1]
    torch.testing.assert_close(moved, of_t + of_x - 0.5 * of_end)
    h = 1e-5
    apart = [field.net(t + k * h, x + k * h * e, labels, end=end - 0.5 * k * h) for k in (1, -1)]
    torch.testing.assert_close(moved, (apart[0] - apart[1]) / (2 * h), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(Field.derivative(field.net, t, x, e, labels, end, rate=1.0, end_rate=-0.5), (u, moved))
    one = field.derivative(0.2, x, e, labels, 0.9, rate=1.0)[1]
    torch.testing.assert_close(one, field.derivative(t * 0 + 0.2, x, e, labels, t * 0 + 0.9, rate=1.0)[1])
    held = field.derivative(t, x, torch.zeros_like(x), labels, end, end_rate=1.0)[1]
    held.square().sum().backward()  # a Lagrangian loss goes back through it
    assert all(p.grad is None or p.grad.isfinite().all() for p in field.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in field.parameters())


@pytest.mark.parametrize("name", CASES)
def test_weights_of_a_velocity_begin_a_map(name: str) -> None:
    """The weights that hear the gap start at zero: what was learned as a velocity is the average of every interval."""
    torch.manual_seed(0)
    net = CASES[name]()
    with torch.no_grad():
        for key, p in net.named_parameters():
            p += 0.0 if "gap" in key else 0.1
    x = torch.randn((2, 3) if name.startswith("mlp") else (2, 2, 4, 6))
    torch.testing.assert_close(net(0.2, x, end=0.9), net(0.2, x))


def test_bad_times_and_networks() -> None:
    field, x = FlowMap(MLPField(2, 4, 1, interval=True)), torch.zeros(3, 2)
    for t, end in ((0.5, 0.4), (-0.1, 0.4), (0.5, 1.1)):
        with pytest.raises(ValueError, match="expected 0 <= t <= end <= 1, noise to data, got t from"):
            field.jump(t, x, end=end)
    with pytest.raises(ValueError, match="expects a field of an interval"):
        FlowMap(MLPField(2, 4, 1))
    with pytest.raises(ValueError, match="end: expected None for a network of one time"):
        MLPField(2, 4, 1)(0.1, x, end=0.5)
    with pytest.raises(ValueError, match="prediction: expected velocity or data, got 'noise'"):
        FlowMap(MLPField(2, 4, 1, interval=True), "noise")
    with pytest.raises(ValueError, match="expected a layer of an interval to hear its times; got 'none'"):
        MLPField(2, 4, 1, time="none", interval=True)
    assert field(0.1, x[:0], end=0.5).shape == (0, 2)
    assert field(0.1, torch.full((1, 2), torch.nan), end=0.5).shape == (1, 2)
