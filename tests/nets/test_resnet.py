from __future__ import annotations

import pytest
import torch
from torch import nn

from pyflowk.nets import ResidualConvNet, WeightNormConv2d


def awake(**context: int) -> ResidualConvNet:
    torch.manual_seed(0)
    net = ResidualConvNet(2, 6, width=8, blocks=2, **context)
    nn.init.normal_(net.last.weight)
    return net


def test_weight_norm_starts_as_the_plain_convolution_and_then_fixes_lengths() -> None:
    conv = WeightNormConv2d(3, 4, 3)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(conv(x), nn.functional.conv2d(x, conv.weight, conv.bias, padding=1))
    expected = conv(x)
    with torch.no_grad():
        conv.weight *= 7  # only the direction of the weight counts
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("size", [(1, 1), (5, 4), (8, 8)])
def test_shapes_and_zero_start(size: tuple[int, int]) -> None:
    net = ResidualConvNet(2, 6, width=8, blocks=1)
    x = torch.randn(3, 2, *size)
    assert net(x).shape == (3, 6, *size) and not net(x).any()
    assert awake()(x).abs().sum() > 0


def test_a_row_does_not_depend_on_its_mates() -> None:
    net, x = awake().double(), torch.randn(4, 2, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]))


def test_contexts() -> None:
    x = torch.randn(1, 2, 4, 4).expand(3, 2, 4, 4)
    out = awake(classes=5)(x, torch.tensor([0, 4, 4]))
    assert torch.equal(out[1], out[2]) and not torch.allclose(out[0], out[1])
    assert awake(context_dim=2)(x, torch.randn(3, 2)).shape == (3, 6, 4, 4)
    with pytest.raises(ValueError, match="expected one of"):
        ResidualConvNet(2, 6, activation="swish")


def test_every_parameter_learns() -> None:
    net = awake(classes=2)
    net(torch.randn(3, 2, 4, 4), torch.tensor([0, 1, 0])).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name
