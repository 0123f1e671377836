"""What every network on images must do: values, tangents, rows, dtypes and layouts, whatever its blocks are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pyflowk.nets import DiT, Field, UNet
from pyflowk.solvers import Fixed
from pyflowk.transforms import Continuous

CASES: dict[str, Callable[..., Field]] = {
    "unet": lambda **c: UNet(2, 8, (1, 2), 1, (1,), **c),
    "dit": lambda **c: DiT(2, 2, 8, 2, 2, **c),
    "dit-fixed": lambda **c: DiT(2, 2, 8, 1, 2, positions="sincos", qk_norm=False, **c),
}
SIDES = {"unet": (5, 6), "dit": (4, 6), "dit-fixed": (4, 6)}
fields = pytest.mark.parametrize("name", CASES)


def made(name: str, **context: Any) -> Field:
    """The network in float64 and away from its zero start."""
    torch.manual_seed(0)
    net = CASES[name](**context).double()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
    return net


def events(name: str, n: int = 3) -> Tensor:
    return torch.randn(n, 2, *SIDES[name], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


T = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)


@fields
def test_it_starts_at_zero_and_every_weight_is_used(name: str) -> None:
    x, labels = events(name), torch.tensor([0, 2, 1])
    assert torch.equal(CASES[name](classes=3).double()(T, x, labels), torch.zeros_like(x))
    net = made(name, classes=3)
    net(T, x, labels).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert not torch.allclose(net(T, x, labels), net(T, x, labels.roll(1)))


@fields
def test_rows_do_not_see_each_other(name: str) -> None:
    net, x = made(name), events(name)
    together = net(T, x)
    torch.testing.assert_close(torch.cat([net(T[i], x[i : i + 1]) for i in range(3)]), together)
    torch.testing.assert_close(net(0.4, x), net(torch.full((3,), 0.4, dtype=torch.float64), x))
    x[1, 0, 0, 0] = torch.nan
    broken = net(T, x)
    assert broken[1].isnan().all() and torch.equal(broken[::2], together[::2])
    assert net(T[:0], x[:0]).shape == x[:0].shape == net(0.5, x[:0]).shape
    with pytest.raises(ValueError, match=r"one time \(\) or one for each of 3 rows, got \(2,\)"):
        net(T[:2], x)


@fields
def test_tangents_and_derivatives(name: str) -> None:
    """Attention has other ways under forward-mode AD, under vmap and in a second derivative: all give the Jacobian."""
    net, x = made(name, context_dim=2), events(name, 1)
    c = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(T[1], x, c), x).reshape(x.numel(), x.numel())
    e = torch.randn(1, 3, *x.shape[1:], dtype=torch.float64)
    value, images = net.with_tangents(T[1], x, e, c)
    torch.testing.assert_close(value, net(T[1], x, c))
    torch.testing.assert_close(images.flatten(2)[0], e.flatten(2)[0] @ jacobian.mT)
    torch.testing.assert_close(net.with_divergence(T[1], x, c)[1][0], jacobian.trace())
    pushed = torch.func.jvp(lambda x: net(T[1], x, c), (x,), (e[:, 0],))
    torch.testing.assert_close(pushed, (value, images[:, 0]))
    t = T[1:2].requires_grad_()
    inputs = t, x.requires_grad_(), c.requires_grad_()
    assert torch.autograd.gradcheck(lambda t, x, c: net.with_tangents(t, x, e[:, :1], c)[1], inputs, fast_mode=True)
    assert torch.autograd.gradcheck(net, inputs, fast_mode=True)
    with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no second derivative
        assert torch.autograd.gradgradcheck(net, inputs, fast_mode=True)


@fields
def test_the_density_of_its_flow(name: str) -> None:
    """The log-determinant of the map that two steps make, by the Jacobian of that map; and that an estimate agrees."""
    net, x = made(name), 0.1 * events(name, 1)
    flow = Continuous(net, method="midpoint", stepping=Fixed(1))
    z, ladj = flow(x)
    h, half = -torch.ones((), dtype=torch.float64), x + -0.5 * net(1.0, x)
    torch.testing.assert_close(z, x + h * net(0.5, half))
    slope = torch.autograd.functional.jacobian(lambda x: net(0.5, x), half).reshape(x.numel(), x.numel())
    torch.testing.assert_close(ladj, -slope.trace().reshape(1))
    rough = Continuous(net, method="midpoint", stepping=Fixed(1), divergence="hutchinson", probes=60)
    estimates = rough(x, None, torch.Generator().manual_seed(0))[1]
    spread = (slope + slope.mT).square().sum().sub(4 * slope.diagonal().square().sum()).div(2 * 60).sqrt()
    assert abs(estimates - ladj) < 4 * spread
    ladj.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None) > 0


@fields
def test_layouts_and_dtypes(name: str) -> None:
    net, x = made(name), events(name)
    exact = net(T, x)
    strided = torch.empty(3, 2, x.shape[3], x.shape[2], dtype=x.dtype).mT.copy_(x)
    torch.testing.assert_close(net(T, strided), exact)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(net(T, x.contiguous(memory_format=torch.channels_last)), exact)
    net.float()
    torch.testing.assert_close(net(T.float(), x.float()), exact.float(), rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(T.float(), x.float())
    assert (rough - exact).norm() < 0.05 * exact.norm()
    net.bfloat16()
    assert (net(T.float(), x.bfloat16()) - exact).norm() < 0.05 * exact.norm()


def test_one_graph_of_values() -> None:
    net, x, labels = made("unet", classes=3).float(), events("unet").float(), torch.tensor([0, 2, 1])
    torch._dynamo.reset()
    whole = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(whole(T.float(), x, labels), net(T.float(), x, labels))


def test_one_graph_of_values_and_tangents_at_every_batch_size() -> None:
    net, x = made("dit").float(), events("dit").float()
    torch._dynamo.reset()
    whole = torch.compile(
        lambda t, x: (net(t, x), *net.with_tangents(t, x, x[:, None])), fullgraph=True, backend="eager"
    )
    for n in (3, 2):
        value, again, images = whole(T[:n].float(), x[:n])
        torch.testing.assert_close((again, images), net.with_tangents(T[:n].float(), x[:n], x[:n, None]))
        torch.testing.assert_close(value, again, rtol=1e-4, atol=1e-5)
