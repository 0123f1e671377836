from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyflowk import ops
from pyflowk.nets import MADE, MLP
from pyflowk.transforms import Additive, Affine, Coupling, Elementwise, MaskedAutoregressive, MemoryFlat, Transform

from .registry import sinh_asinh


class Recorder(nn.Module):
    """A network that returns zeros and remembers what it was given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.seen = channels, []

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        self.seen.append((x, context))
        return x.new_zeros(x.shape[0], self.channels, *x.shape[2:])


@pytest.mark.parametrize(
    "mask, swap, seen",
    [
        ("half", False, [0, 1]),
        ("channel", False, [0, 1]),
        ("half", True, [2, 3, 4]),
        ("alternating", False, [0, 2, 4]),
        ("alternating", True, [1, 3]),
        ("all", False, []),
    ],
)
def test_the_network_sees_the_identity_part_and_no_more(mask: str, swap: bool, seen: list[int]) -> None:
    net = Recorder(2 * (5 - len(seen)))
    Coupling(net, mask=mask, swap=swap)(torch.arange(5.0)[None])
    assert net.seen[0][0].tolist() == [[float(i) for i in seen]] and net.seen[0][1] is None


def test_a_checkerboard_network_sees_zeros_where_something_moves() -> None:
    net = Recorder(2)
    Coupling(net, mask="checkerboard")(torch.ones(1, 1, 2, 2))
    assert net.seen[0][0].tolist() == [[[[1.0, 0.0], [0.0, 1.0]]]]


@pytest.mark.parametrize("mask", ["half", "alternating"])
def test_affine_is_the_op(mask: str) -> None:
    x, net = torch.randn(4, 6), nn.Linear(3, 6)
    z, ladj = Coupling(net, Affine("sigmoid", interleaved=True), mask)(x)
    part = x[:, :3] if mask == "half" else x[:, ::2]
    expected = ops.affine_coupling(x, net(part), mask=mask, bound="sigmoid", interleaved=True)
    assert torch.equal(z, expected[0]) and torch.equal(ladj, expected[1])


def test_additive_preserves_volume() -> None:
    x = torch.randn(4, 6)
    net = nn.Linear(3, 3)
    z, ladj = Coupling(net, Additive())(x)
    assert torch.equal(ladj, torch.zeros(4)) and torch.equal(z[:, :3], x[:, :3])
    torch.testing.assert_close(z[:, 3:], x[:, 3:] + net(x[:, :3]))


@pytest.mark.parametrize("mask, swap", [("half", True), ("alternating", False), ("checkerboard", True), ("all", False)])
def test_elementwise_moves_the_same_places_as_affine(mask: str, swap: bool) -> None:
    x = torch.randn(2, 3, 2, 3)
    moved = ops.affine_coupling(x, _ones(x, mask, swap), mask=mask, swap=swap)[0] != x
    y, ladj = Elementwise(sinh_asinh, 2)(x, _ones(x, mask, swap), mask=mask, swap=swap)
    assert torch.equal(y != x, moved)
    assert ladj.shape == (2,)


def _ones(x: Tensor, mask: str, swap: bool) -> Tensor:
    from pyflowk.ops.masks import transformed_channels

    return torch.ones(len(x), 2 * transformed_channels(x.shape[1], mask, swap), *x.shape[2:])


def test_elementwise_gradient_is_not_spoilt_by_identity_positions() -> None:
    """The function has an infinite slope at 1e30, which only identity positions hold."""
    x = torch.full((1, 1, 2, 2), 1e30)
    x[..., 0, 1] = x[..., 1, 0] = 0.5
    params = torch.zeros(1, 2, 2, 2, requires_grad=True)
    y, ladj = Elementwise(sinh_asinh, 2)(x, params, mask="checkerboard")
    (y[..., 0, 1].sum() + ladj.sum()).backward()
    assert params.grad is not None and params.grad.isfinite().all()


def test_context_goes_to_networks_that_take_one() -> None:
    x, context = torch.randn(3, 4), torch.randn(3, 2)
    net = Recorder(4)
    Coupling(net)(x, context)
    assert net.seen[-1][1] is context
    Coupling(net)(x, context[:1])
    assert torch.equal(net.seen[-1][1], context[:1].expand(3, 2))
    Coupling(net, conditional=False)(x, context)
    assert net.seen[-1][1] is None
    with pytest.raises(TypeError, match=r"2 positional .* but 3 were given; .*say conditional=False"):
        Coupling(nn.Sequential(nn.Linear(2, 4)))(x, context)
    assert not Coupling(torch.compile(MLP(2, 4), backend="eager")).conditional
    for wrong, got in ((None, "None"), (nn.Linear, "a type itself")):
        with pytest.raises(TypeError, match=f"expected a module or a function, got {got}$"):
            Coupling(wrong)
    with pytest.raises(TypeError, match="conditional: expected True, False or None, got a str"):
        Coupling(net, conditional="no")  # type: ignore[arg-type]
    assert not Coupling(MLP(2, 4)).conditional and Coupling(MLP(2, 4, context_dim=2)).conditional


def test_wrong_network_output_is_named() -> None:
    with pytest.raises(ValueError, match=r"return \(3, 4\).*got \(3, 5\)"):
        Coupling(nn.Linear(2, 5))(torch.zeros(3, 4))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="alternating"):
        Coupling(nn.Identity(), mask="diagonal")
    with pytest.raises(ValueError, match="tanh"):
        Affine("relu")
    with pytest.raises(ValueError, match="positive"):
        Affine(limit=0.0)
    with pytest.raises(ValueError, match=r"\(B, D\)"):
        Coupling(nn.Identity())(torch.zeros(3))


class UserModel(nn.Module):
    """Somebody's own module with a coupling dropped in."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 4)
        self.coupling = Coupling(MLP(2, 4, width=16))
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, ladj = self.coupling(self.encoder(x))
        return self.head(z).squeeze(1), ladj


def test_drop_in_under_compile_trains_as_in_eager() -> None:
    torch.manual_seed(0)
    model = UserModel()
    x = torch.randn(16, 8)
    gradients = []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        y, ladj = run(x)
        gradients.append(torch.autograd.grad((y.square() - ladj).mean(), list(model.parameters())))
    for eager, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(eager, compiled)


def test_log_det_does_not_overflow_for_huge_raw_scales() -> None:
    class Huge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 4), 1e6)

    coupling: Transform = Coupling(Huge())
    x = torch.randn(3, 4)
    z, ladj = coupling(x)
    assert z.isfinite().all() and torch.allclose(ladj, torch.full((3,), 4.0))


class Doubled(Affine):
    """A subclass with a map of its own: what Affine tells the kernels, and its gradient, do not hold for it."""

    def forward(
        self, x: Tensor, params: Tensor, *, mask: str = "half", swap: bool = False, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        return super().forward(x, 2 * params, mask=mask, swap=swap, inverse=inverse)


def test_a_map_that_changes_its_parents_values_keeps_none_of_its_short_cuts() -> None:
    torch.manual_seed(0)
    maf = MaskedAutoregressive(MADE(4), Doubled())
    torch.nn.init.normal_(maf.made.last.weight, std=0.1)
    x = torch.randn(5, 4)
    with torch.no_grad():
        torch.testing.assert_close(maf.inverse(maf(x)[0])[0], x, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(maf(x), Affine()(x, 2 * maf.made(x), mask="all"))
    coupling = Coupling(nn.Linear(2, 4), Doubled())
    found = []
    for stack in (MemoryFlat(coupling), coupling):
        z, ladj = stack(x)
        found.append(torch.autograd.grad(z.square().sum() - ladj.sum(), list(coupling.parameters())))
    torch.testing.assert_close(*found)
    with pytest.raises(TypeError, match=r"Coupling expects a Map .*, got Linear"):
        Coupling(nn.Linear(2, 4), nn.Linear(1, 1))
