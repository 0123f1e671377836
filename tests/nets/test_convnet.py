from __future__ import annotations

import pytest
import torch

from pyflowk.nets import ConvNet


@pytest.mark.parametrize("condition", [{}, {"classes": 3}, {"context_dim": 2}, {"context_channels": 4}])
def test_shapes_context_and_gradients(condition: dict[str, int]) -> None:
    torch.manual_seed(0)
    net = ConvNet(2, 5, 8, "silu", **condition)
    contexts = {"classes": torch.tensor([0, 2, 1]), "context_dim": torch.randn(3, 2)}
    contexts["context_channels"] = torch.randn(3, 4, 6, 7)
    context = contexts[next(iter(condition))] if condition else None
    x = torch.randn(3, 2, 6, 7)
    assert torch.equal(net(x, context), torch.zeros(3, 5, 6, 7))
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
    y = net(x, context)
    y.square().sum().backward()
    assert y.shape == (3, 5, 6, 7) and all(p.grad.abs().sum() > 0 for p in net.parameters())
    if context is not None:
        assert not torch.allclose(y, net(x, context.roll(1, 0)))


def test_an_image_as_context_must_fit() -> None:
    net = ConvNet(0, 2, 8, context_channels=1)
    assert net(torch.zeros(3, 0, 4, 4), torch.zeros(3, 1, 4, 4)).shape == (3, 2, 4, 4)
    with pytest.raises(ValueError, match=r"\(3, 1, 4, 4\) as context, got \(3, 1, 4, 5\)"):
        net(torch.zeros(3, 0, 4, 4), torch.zeros(3, 1, 4, 5))
    with pytest.raises(ValueError, match="one kind of context"):
        ConvNet(1, 1, classes=2, context_channels=1)
