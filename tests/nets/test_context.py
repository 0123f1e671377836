"""One rule of the context for every network: as many rows as events or one for all, neither missing nor unwanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk import nets
from pyflowk.manifolds import Sphere
from pyflowk.nets import Network, drop_context
from pyflowk.paths import VP, CondOT, MixturePath, SimplexPath
from pyflowk.solvers import Fixed
from pyflowk.space import Ragged
from pyflowk.transforms import Continuous

T = torch.tensor(0.3)
SYMBOLS = torch.arange(12).reshape(4, 3) % 5
LINES = Ragged(SYMBOLS, torch.tensor([3, 2, 0, 1]))
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
    "CharacteristicsField": lambda **c: _landing(
        _given(
            nets.CharacteristicsField(nets.MLPField(3, 8, 2, outputs=12, **c), bins=2), T, VECTORS, conditional=bool(c)
        )
    ),
    "CausalTransformer": lambda **c: _given(nets.CausalTransformer(5, 2, 2, 8, 1, 2, **c), IMAGES[:, :, 0]),
    "CausalTransformer-prefix": lambda **c: _given(
        nets.CausalTransformer(5, 2, 2, 8, 1, 2, prefix=2 * bool(c), **c), IMAGES[:, :, 0]
    ),
    "DiT": lambda **c: _given(nets.DiT(2, 5, 8, 1, 2, **c), T, IMAGES),
    "FlowMap": lambda **c: _given(
        nets.FlowMap(nets.MLPField(3, 8, 2, interval=True, **c)), T, VECTORS, conditional=bool(c)
    ),
    "EditTransformer": lambda **c: _given(nets.EditTransformer(6, 8, 1, heads=2, **c), T, LINES),
    "GaussianBaseline": lambda **c: _given(
        nets.GaussianBaseline(nets.MLPField(3, 8, 2, **c)), T, VECTORS, conditional=bool(c)
    ),
    "Preconditioned": lambda **c: _given(
        nets.Preconditioned(nets.MLPField(3, 8, 2, **c), CondOT()), T, VECTORS, conditional=bool(c)
    ),
    "RescheduledField": lambda **c: _given(
        nets.RescheduledField(nets.MLPField(3, 8, 2, **c), CondOT(), VP()), T, VECTORS, conditional=bool(c)
    ),
    "ReversedField": lambda **c: _given(
        nets.ReversedField(nets.MLPField(3, 8, 2, **c)), T, VECTORS, conditional=bool(c)
    ),
    "TangentField": lambda **c: _given(
        nets.TangentField(nets.MLPField(3, 8, 2, **c), Sphere((3,))), T, VECTORS, conditional=bool(c)
    ),
    "ColumnField": lambda **c: _given(
        nets.ColumnField((6, 4), 8, 1, heads=2, **c), T, SYMBOLS[:, :2] % 4, conditional=bool(c)
    ),
    "SimplexField": lambda **c: _given(
        nets.SimplexField(SimplexPath(5), 4, 1, heads=1, **c), T, IMAGES[:, 0, :, :4], conditional=bool(c)
    ),
    "TokenTransformer": lambda **c: _given(nets.TokenTransformer(6, 5, 8, 1, 2, **c), T, SYMBOLS),
    "LeaveOneOut": lambda **c: _given(
        nets.LeaveOneOut(nets.TokenTransformer(5, 5, 8, 1, 2, **c), MixturePath(5, "uniform")),
        T,
        SYMBOLS,
        conditional=bool(c),
    ),
    "UNet": lambda **c: _given(nets.UNet(2, 4, (1, 1), 1, (1,), **c), T, IMAGES),
    "VelocityField": lambda **c: _given(
        nets.VelocityField(nets.MLPField(3, 8, 2, **c), CondOT(), "data"), T, VECTORS, conditional=bool(c)
    ),
    "FourierField": lambda **c: _given(
        nets.FourierField(3, 4, 1.0, lambda n: nets.MLPField(n, 8, 2, **c)), T, VECTORS, conditional=bool(c)
    ),
}


def _landing(told: Callable[..., Any]) -> Callable[..., Any]:
    return lambda context: told(context).landing


def _given(net: Network, *inputs: Any, name: str = "forward", conditional: bool | None = None) -> Callable[..., Any]:
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
        with pytest.raises(ValueError, match=r"expected labels in 0\.\.\d+, got 1\.\.99$"):
            net(torch.tensor([99, 1, 2, 2]))
    with pytest.raises(
        ValueError, match=r"expected a context of 4 rows \(one per event\) or of 1 row \(for all\), got \(3,"
    ):
        net(one.expand(3, *one.shape[1:]))
    with pytest.raises(ValueError, match=r"built for a context .*, but got none"):
        net(None)
    with pytest.raises(ValueError, match=r"built without a context .*, but got one"):
        CASES[name]()(one)


DROPPABLE = (
    "MLPField",
    "MLPField-divergence",
    "ConvField",
    "VelocityField",
    "DiT",
    "CausalTransformer",
    "CausalTransformer-prefix",
    "TokenTransformer",
    "EditTransformer",
    "LeaveOneOut",
    "UNet",
    "GaussianBaseline",
    "Preconditioned",
)


@pytest.mark.parametrize("name", DROPPABLE)
@pytest.mark.parametrize("context", [{"classes": 3}, {"context_dim": 2}], ids=["labels", "numbers"])
def test_a_context_may_be_left_out(name: str, context: dict[str, int]) -> None:
    """None, one more label, and a column of flags say the same; a context without that column is given."""
    net = CASES[name](**context, droppable=True)
    if "classes" in context:
        given, none = torch.tensor([2, 0, 1, 2]), torch.full((4,), 3)
    else:
        given, none = torch.randn(4, 2), torch.zeros(4, 3)
        torch.testing.assert_close(net(given), net(torch.cat((given, torch.ones(4, 1)), 1)), rtol=0, atol=0)
    torch.testing.assert_close(net(None), net(none))
    assert not torch.allclose(_first(net(given)), _first(net(none)), atol=1e-3)
    dropped = torch.tensor([True, False, True, False])
    mixed = _first(net(drop_context(given, dropped, none[:1])))
    torch.testing.assert_close(mixed[dropped], _first(net(None))[dropped])
    torch.testing.assert_close(mixed[~dropped], _first(net(given))[~dropped])


def _first(found: Any) -> Tensor:
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("context", [{"classes": 3}, {"context_dim": 2}], ids=["labels", "numbers"])
def test_what_stands_for_no_context(context: dict[str, int]) -> None:
    field = nets.MLPField(3, 8, 2, **context, droppable=True)
    none = field.no_context()
    assert none.tolist() == ([3] if "classes" in context else [[0.0, 0.0, 0.0]])
    assert torch.equal(nets.VelocityField(field, CondOT(), "data").no_context(), none)
    assert torch.equal(nets.field.as_field(torch.compile(field)).no_context(), none)
    fixed = Continuous(field, method="rk4", stepping=Fixed(2))  # the whole way in one call, which wants a row for each
    torch.testing.assert_close(fixed(VECTORS), fixed(VECTORS, none))
    for without in (nets.MLPField(3, 8, 2, **context), nets.FunctionField(lambda t, x: x)):
        with pytest.raises(ValueError, match=r"expected a network that can do without its context.*droppable=True"):
            without.no_context()
    with pytest.raises(ValueError, match="expected a network that hears labels or numbers given; this MLPField hears"):
        nets.MLPField(3).no_context()
    with pytest.raises(ValueError, match=r"droppable: expected a network with a context .*, got none"):
        nets.MLPField(3, droppable=True)


def test_contexts_of_every_kind_are_dropped() -> None:
    dropped = torch.tensor([False, True])
    narrow = drop_context(torch.tensor([255, 7], dtype=torch.uint8), dropped, torch.tensor([256]))
    assert narrow.tolist() == [255, 256]  # which no byte holds
    words = Ragged(torch.arange(6).reshape(2, 3), torch.tensor([3, 2]))
    nothing = Ragged(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    assert drop_context(words, dropped, nothing).lengths.tolist() == [3, 0]
    image = torch.ones(2, 1, 2, 2)
    assert drop_context(image, dropped, torch.zeros(1, 1, 2, 2)).flatten(1).sum(1).tolist() == [4, 0]
    half = drop_context(torch.ones(2, 1, dtype=torch.bfloat16), dropped, torch.zeros(1, 2))
    assert half.dtype == torch.bfloat16 and half.tolist() == [[1, 1], [0, 0]]
    assert drop_context(torch.ones(0, 1), dropped[:0], torch.zeros(1, 2)).shape == (0, 2)
    with pytest.raises(ValueError, match=r"expected a context \(B, 3\), got \(2, 5\)"):
        drop_context(torch.ones(2, 5), dropped, torch.zeros(1, 3))
    with pytest.raises(TypeError, match=r"a context of one kind, got a .*Ragged"):
        drop_context(words, dropped, torch.zeros(1, 3))


def test_an_image_as_context_may_stand_for_all() -> None:
    net, image = nets.ConvNet(2, 4, 8, context_channels=1), torch.randn(1, 1, 5, 5)
    torch.nn.init.normal_(net.last.weight)
    torch.testing.assert_close(net(IMAGES, image), net(IMAGES, image.expand(4, 1, 5, 5)))


def test_no_network_is_missing() -> None:
    found = {
        kind for kind in map(nets.__dict__.get, nets.__all__) if isinstance(kind, type) and issubclass(kind, Network)
    }
    bases = {
        nets.Network,
        nets.CausalNetwork,
        nets.Field,
        nets.Branch,
        nets.LipschitzNet,
        nets.FunctionField,
        nets.FunctionBranch,
        nets.LanguageModel,  # of tokens that another library has read
        nets.Behind,  # a field of the user's, whose context are finished blocks
    }
    assert {kind.__name__ for kind in found - bases} == {name.split("-")[0] for name in CASES}
