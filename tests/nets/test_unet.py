"""The U-Net's own rules: what a block computes, sides of any length, where it attends."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyflowk.nets import UNet
from pyflowk.nets.dual import Dual
from pyflowk.nets.unet import _Up


def awake(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    return net.double()


def test_a_ladder_of_one_rung_by_its_formula() -> None:
    """One block down, two in the middle, two up, written out from the weights alone."""
    net = awake(UNet(1, 4, (2,), 1, (), time_scale=3.0))
    x, t = torch.randn(2, 1, 4, 3, dtype=torch.float64), torch.tensor([0.2, 0.9], dtype=torch.float64)
    w = dict(net.named_parameters())

    def conv(name: str, h: torch.Tensor) -> torch.Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(h, weight, w[f"{name}.bias"], padding=weight.shape[2] // 2)

    def normed(name: str, h: torch.Tensor, groups: int) -> torch.Tensor:
        parts = h.reshape(2, groups, -1)
        parts = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        return parts.reshape(h.shape) * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def block(name: str, h: torch.Tensor, groups: int) -> torch.Tensor:
        both = F.linear(heard, w[f"{name}.modulation.weight"], w[f"{name}.modulation.bias"])[..., None, None]
        inner = normed(f"{name}.second_norm", conv(f"{name}.first", F.silu(normed(f"{name}.first_norm", h, groups))), 2)
        inner = conv(f"{name}.second", F.silu(inner * (1 + both[:, :8]) + both[:, 8:]))
        return inner + (conv(f"{name}.skip", h) if f"{name}.skip.weight" in w else h)

    heard = F.silu(net.time(t))  # type: ignore[operator]
    first = conv("first", x)
    down = block("down.0", first, 1)
    a = block("middle.0", down, 2)
    image = a.flatten(2).mT
    q, k, v = F.linear(
        normed("middle.0.attention.norm", a, 2).flatten(2).mT,
        w["middle.0.attention.tokens.qkv.weight"], w["middle.0.attention.tokens.qkv.bias"],
    ).chunk(3, -1)  # fmt: skip
    mixed = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
    image = image + F.linear(mixed, w["middle.0.attention.tokens.out.weight"], w["middle.0.attention.tokens.out.bias"])
    h = block("middle.1", image.mT.reshape(a.shape), 2)
    h = block("up.0", torch.cat((h, down), 1), 4)
    h = block("up.1", torch.cat((h, first), 1), 3)
    expected = conv("last", F.silu(normed("norm", h, 2)))
    torch.testing.assert_close(net(t, x), expected)


@pytest.mark.parametrize("sides", [(1, 1), (1, 5), (7, 6), (8, 8), (9, 12)])
def test_any_sides(sides: tuple[int, int]) -> None:
    net = awake(UNet(2, 4, (1, 2, 2), 1, (2,)))
    x = torch.randn(2, 2, *sides, dtype=torch.float64)
    assert net(0.3, x).shape == x.shape and net(0.3, x).isfinite().all()


def test_an_odd_side_is_doubled_and_cropped() -> None:
    up = awake(_Up(2))
    h, beside = torch.randn(1, 2, 3, 2, dtype=torch.float64), torch.zeros(1, 9, 5, 4)
    twice = h.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :5]
    torch.testing.assert_close(up(Dual(h), Dual(beside)).value, up.conv(twice))  # type: ignore[operator]


def test_attention_stands_where_it_was_asked_for() -> None:
    net = UNet(1, 4, (1, 1, 2), 1, (2,))
    attending = {name.split(".tokens")[0] for name, _ in net.named_parameters() if ".tokens." in name}
    assert attending == {"down.4.attention", "middle.0.attention", "up.0.attention", "up.1.attention"}
    with pytest.raises(ValueError, match=r"attention: expected levels from 0 to 1, got \(2,\)"):
        UNet(1, 4, (1, 1), attention=(2,))
    with pytest.raises(ValueError, match="levels to be an integer of at least 1, got 0"):
        UNet(1, 4, (), attention=())
    with pytest.raises(ValueError, match=r"multipliers\[1\] to be an integer of at least 1, got 0"):
        UNet(1, 4, (1, 0), attention=())
