"""One rule of the context for every network: as many rows as events or one for all, neither missing nor unwanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk import nets
from pyflowk.nets import Network
from pyflowk.paths import CondOT

T = torch.tensor(0.3)
VECTORS, IMAGES = torch.randn(4, 3), torch.randn(4, 2, 5, 5)
CASES: dict[str, Callable[..., Callable[..., Any]]] = {
    "MLP": lambda **c: _given(nets.MLP(3, 2, 8, **c), VECTORS),
    "MLP-fused": lambda **c: _given(nets.MLP(3, 2, 8, fused=True, **c), VECTORS),
    "MADE": lambda **c: _given(nets.MADE(3, hidden=(8,), **c), VECTORS),
    "ConvNet": lambda **c: _given(nets.ConvNet(2, 4, 8, **c), IMAGES),
    "ResidualConvNet": lambda **c: _given(nets.ResidualConvNet(2, 4, 8, 1, **c), IMAGES),
    "LipschitzMLP": lambda **c: _given(nets.LipschitzMLP(3, 8, **c), VECTORS),
    "LipschitzConvNet": lambda **c: _given(nets.LipschitzConvNet(2, (5, 5), 4, **c), IMAGES),
    "MLPField": lambda **c: _given(nets.MLPField(3, 8, 2, **c), T, VECTORS),
    "MLPField-divergence": lambda **c: _given(nets.MLPField(3, 8, 2, **c), T, VECTORS, name="with_divergence"),
    "ConvField": lambda **c: _given(nets.ConvField(2, 4, 1, **c), T, IMAGES),
    "DiT": lambda **c: _given(nets.DiT(2, 5, 8, 1, 2, **c), T, IMAGES),
    "UNet": lambda **c: _given(nets.UNet(2, 4, (1, 1), 1, (1,), **c), T, IMAGES),
    "VelocityField": lambda **c: _given(
        nets.VelocityField(nets.MLPField(3, 8, 2, **c), CondOT(), "data"), T, VECTORS, conditional=bool(c)
    ),
}


def _given(net: Network, *inputs: Tensor, name: str = "forward", conditional: bool | None = None) -> Callable[..., Any]:
    """The network as a function of the context, away from its zero start."""
    assert net.takes_context == (net.context is not None if conditional is None else conditional)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    net.eval()
    return lambda context: getattr(net, name)(*inputs, context)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("context", [{"classes": 3}, {"context_dim": 2}], ids=["labels", "numbers"])
def test_one_row_stands_for_all(name: str, context: dict[str, int]) -> None:
    net = CASES[name](**context)
    one = torch.tensor([2]) if "classes" in context else torch.tensor([[0.3, -1.0]])
    torch.testing.assert_close(net(one), net(one.expand(4, *one.shape[1:])), rtol=1e-6, atol=1e-6)
    if "classes" in context:
        torch.testing.assert_close(net(one[0]), net(one))
    with pytest.raises(
        ValueError, match=r"expected a context of 4 rows \(one per event\) or of 1 row \(for all\), got \(3,"
    ):
        net(one.expand(3, *one.shape[1:]))
    with pytest.raises(ValueError, match=r"built for a context .*, but got none"):
        net(None)
    with pytest.raises(ValueError, match=r"built without a context .*, but got one"):
        CASES[name]()(one)


def test_an_image_as_context_may_stand_for_all() -> None:
    net, image = nets.ConvNet(2, 4, 8, context_channels=1), torch.randn(1, 1, 5, 5)
    torch.nn.init.normal_(net.last.weight)
    torch.testing.assert_close(net(IMAGES, image), net(IMAGES, image.expand(4, 1, 5, 5)))


def test_no_network_is_missing() -> None:
    found = {
        kind for kind in map(nets.__dict__.get, nets.__all__) if isinstance(kind, type) and issubclass(kind, Network)
    }
    bases = {nets.Network, nets.Field, nets.Branch, nets.LipschitzNet, nets.FunctionField, nets.FunctionBranch}
    assert {kind.__name__ for kind in found - bases} == {name.split("-")[0] for name in CASES}
