from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pyflowk.nets import (
    CONTRACTIVE_ACTIVATIONS,
    LipschitzConvNet,
    LipschitzMLP,
    LipschitzNet,
    SpectralConv2d,
    SpectralLinear,
)
from pyflowk.nets.activations import make_activation
from pyflowk.nets.spectral import SpectralLayer


def awake(net: nn.Module, scale: float = 1.0) -> nn.Module:
    """Every parameter away from its start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p += scale * torch.randn(p.shape, generator=generator).to(p)
    return net


def operator(layer: SpectralLayer, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The layer's linear map as a matrix, column by column."""
    basis = torch.eye(torch.Size(shape).numel(), dtype=weight.dtype).reshape(-1, *shape)
    return layer.apply_weight(weight, basis).flatten(1).T


CONVOLUTIONS = [
    ((2, 3, 3, (5, 4)), {}),
    ((3, 2, 3, (6, 6)), {"stride": 2}),
    ((2, 2, 3, (5, 7)), {"padding": 0}),
    ((1, 4, 4, (7, 7)), {"stride": 3, "padding": 2}),
    ((4, 3, 1, (3, 3)), {}),
    ((1, 1, 5, (8, 8)), {}),
]


def layers() -> list[tuple[SpectralLayer, tuple[int, ...]]]:
    found: list[tuple[SpectralLayer, tuple[int, ...]]] = [
        (SpectralLinear(5, 3, 0.7), (5,)),
        (SpectralLinear(3, 8, 0.7), (3,)),
        (SpectralLinear(1, 1, 0.7), (1,)),
    ]
    for arguments, options in CONVOLUTIONS:
        found.append((SpectralConv2d(*arguments, lipschitz=0.7, **options), (arguments[0], *arguments[3])))
    return [(awake(layer, 3.0).double(), shape) for layer, shape in found]  # type: ignore[misc]


LAYERS = range(len(layers()))


@pytest.mark.parametrize("index", LAYERS)
def test_the_adjoint_is_the_transpose(index: int) -> None:
    layer, shape = layers()[index]
    x = torch.randn(2, *shape, dtype=torch.float64)
    y = layer.apply_weight(layer.weight, x)
    other = torch.randn_like(y)
    back = layer.apply_adjoint(layer.weight, other)
    torch.testing.assert_close((y * other).sum(), (x * back).sum())


@pytest.mark.parametrize("index", LAYERS)
def test_evaluation_holds_the_norm_of_the_real_map(index: int) -> None:
    """A reshaped weight's norm, which is what peers normalise a convolution by, misses these by up to a factor."""
    layer, shape = layers()[index]
    layer.eval()
    norm = torch.linalg.matrix_norm(operator(layer, layer.normalized_weight(), shape), 2).item()
    slack = 1e-5 if isinstance(layer, SpectralLinear) or layer.kernel_size == (1, 1) else 2e-3
    assert 0.7 * (1 - slack) <= norm <= 0.7 * (1 + slack)
    assert norm <= layer.norm_bound() <= norm * 1.012


@pytest.mark.parametrize("index", LAYERS)
def test_small_weights_are_left_alone(index: int) -> None:
    layer, shape = layers()[index]
    with torch.no_grad():
        layer.weight *= 0.1 / torch.linalg.matrix_norm(operator(layer, layer.weight, shape), 2)
    layer.eval()
    torch.testing.assert_close(layer.normalized_weight(), layer.weight)
    assert 0.1 <= layer.norm_bound() * (1 + 1e-9) <= 0.102


@pytest.mark.parametrize("index", LAYERS)
def test_training_follows_the_weight_without_catching_up_at_once(index: int) -> None:
    layer, shape = layers()[index]
    layer.train()
    for _ in range(200):
        with torch.no_grad():
            layer.weight *= 1.001  # a step of the optimiser
        weight = layer.normalized_weight()
    norm = torch.linalg.matrix_norm(operator(layer, weight, shape), 2).item()
    assert 0.7 - 1e-4 <= norm <= 0.7 * 1.02
    assert norm <= layer.norm_bound() <= norm * 1.012  # the certificate tells the truth about the lag
    before = layer.u.clone()
    layer.normalized_weight()
    assert torch.equal(layer.u, before)  # no change of the weight, no iteration


@pytest.mark.parametrize("index", LAYERS)
def test_gradient_through_the_norm_is_that_of_the_singular_value(index: int) -> None:
    layer, shape = layers()[index]
    layer.eval()
    probe = torch.randn_like(layer.weight)
    (gradient,) = torch.autograd.grad((layer.normalized_weight() * probe).sum(), layer.weight)

    def exact(weight: Tensor) -> Tensor:
        return (weight * probe).sum() * 0.7 / torch.linalg.matrix_norm(operator(layer, weight, shape), 2)

    (expected,) = torch.autograd.grad(exact(layer.weight), layer.weight)
    tolerance = 1e-9 if isinstance(layer, SpectralLinear) else 0.03
    torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance)


def test_a_zero_layer_wakes_up() -> None:
    layer = SpectralLinear(4, 3, 0.5)
    nn.init.zeros_(layer.weight)
    assert layer.normalized_weight().abs().sum() == 0 and layer.norm_bound() == 0
    nn.init.normal_(layer.weight, std=3.0)
    for _ in range(30):
        with torch.no_grad():
            layer.weight.mul_(1.001)
        weight = layer.normalized_weight()
    assert abs(torch.linalg.matrix_norm(weight, 2).item() - 0.5) < 1e-3


def test_two_forwards_and_one_backward() -> None:
    """Renewing the vectors in place must not spoil what an earlier graph has saved."""
    layer = SpectralLinear(4, 3, 0.5)
    first = layer(torch.randn(2, 4)).sum()
    with torch.no_grad():
        layer.bias.add_(1.0)
    layer.eval()(torch.randn(2, 4))
    first.backward()
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()


def test_the_state_dict_holds_the_vectors_and_training_goes_on_from_there() -> None:
    layer = awake(SpectralLinear(6, 6, 0.5))
    for _ in range(50):
        with torch.no_grad():
            layer.weight *= 1.001
        layer.normalized_weight()
    twin = SpectralLinear(6, 6, 0.5)
    twin.load_state_dict(layer.state_dict())
    torch.testing.assert_close(twin.normalized_weight(), layer.normalized_weight(), rtol=1e-4, atol=1e-5)
    assert torch.equal(copy.deepcopy(layer).eval().normalized_weight(), layer.eval().normalized_weight())


def test_training_never_waits_for_the_device() -> None:
    """On the meta device any read of a value raises."""
    net = LipschitzConvNet(2, (4, 4), width=3, classes=2).to("meta").train()
    g, pull = net.linearize(torch.empty(3, 2, 4, 4, device="meta"), torch.zeros(3, dtype=torch.int64, device="meta"))
    assert pull(g).shape == (3, 2, 4, 4)


@pytest.mark.parametrize("name", CONTRACTIVE_ACTIVATIONS)
def test_activations_have_the_slope_they_say_and_it_is_at_most_one(name: str) -> None:
    activation = awake(make_activation(name, CONTRACTIVE_ACTIVATIONS).double())
    x = torch.cat((torch.linspace(-8, 8, 4001), torch.tensor([-300.0, 300.0]))).double().requires_grad_()
    value, slope = activation.value_and_slope(x)
    torch.testing.assert_close(value, activation(x))
    (expected,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
    torch.testing.assert_close(slope, expected)
    assert slope.abs().max() <= 1 and slope.abs().max() > 0.99
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert curvature.isfinite().all()


def nets() -> list[tuple[LipschitzNet, Tensor, Tensor | None]]:
    x, image = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 2, 3, 4, dtype=torch.float64)
    vector = torch.randn(6, 3, dtype=torch.float64)
    found = [
        (LipschitzMLP(4, 16, 2, 0.8), x, None),
        (LipschitzMLP(4, 16, 1, 0.5, "elu", classes=3), x, torch.arange(6) % 3),
        (LipschitzMLP(4, 5, 3, 0.97, "sin", context_dim=3), x, vector),
        (LipschitzConvNet(2, (3, 4), 8, 0.9), image, None),
        (LipschitzConvNet(2, (3, 4), 5, 0.7, "softplus", (3, 3), context_dim=3), image, vector),
    ]
    return [(awake(net).double().eval(), x, c) for net, x, c in found]  # type: ignore[misc]


NETS = range(len(nets()))


@pytest.mark.parametrize("index", NETS)
def test_linearize_agrees_with_autograd(index: int) -> None:
    net, x, context = nets()[index]
    x.requires_grad_()
    g, pull = net.linearize(x, context)
    torch.testing.assert_close(g, net(x, context))
    torch.testing.assert_close(net.given(context)(x), g)
    v = torch.randn_like(x)
    (expected,) = torch.autograd.grad(g, x, v, retain_graph=True)
    torch.testing.assert_close(pull(v), expected)
    several = torch.randn(3, *x.shape, dtype=torch.float64)
    torch.testing.assert_close(pull.many(several), torch.stack([pull(one) for one in several]))
    rows = torch.tensor([4, 0, 2])
    torch.testing.assert_close(pull.rows(rows)(v[rows]), expected[rows])
    torch.testing.assert_close(pull.rows(slice(2))(v[:2]), expected[:2])
    torch.autograd.gradcheck(lambda x: net.linearize(x, context)[1](v), (x,))


@pytest.mark.parametrize("index", NETS)
def test_the_certified_constant_bounds_every_jacobian(index: int) -> None:
    net, x, context = nets()[index]
    bound = net.contraction()
    assert bound <= net.lipschitz * 1.012 ** len(net.layers)
    for scale in (0.1, 1.0, 10.0):
        extra = () if context is None else (context,)
        row = lambda x, *c: net(x[None], *(one[None] for one in c))[0].flatten()  # noqa: E731
        jacobian = torch.func.vmap(torch.func.jacrev(row))(scale * x, *extra).reshape(len(x), x[0].numel(), -1)
        assert torch.linalg.matrix_norm(jacobian, 2).max() <= bound


def test_after_training_the_evaluated_net_is_a_contraction() -> None:
    """Singular values above 1 after training: invertible-resnet's issue 14."""
    torch.manual_seed(0)
    net = LipschitzMLP(3, 32, 2, 0.9)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    x = torch.randn(64, 3)
    for _ in range(100):
        loss = (net(x) - 5 * x).square().mean()  # wants to expand
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert net.contraction() < 1
    net.eval()
    norms = [torch.linalg.matrix_norm(layer.normalized_weight(), 2).item() for layer in net.layers]
    assert torch.tensor(norms).prod() <= 0.9 * (1 + 1e-5) and net.contraction() <= 0.9 * (1 + 1e-5)
    assert net.contraction() > 0.89


def test_a_weight_that_is_none_makes_an_output_that_is_none() -> None:
    """Not an error of the eigenproblem, which names no layer; what comes after is as if nothing had been."""
    layer, x = awake(SpectralLinear(4, 5, 0.9)).eval(), torch.randn(2, 4)
    before, weight = layer(x), layer.weight.detach().clone()
    for value in (torch.nan, torch.inf):
        torch.nn.init.constant_(layer.weight, value)
        assert layer(x).isnan().all() and not layer.norm_bound() < torch.inf
    layer.weight.data.copy_(weight)
    assert torch.equal(layer(x), before)


def test_a_layer_made_in_inference_mode_is_evaluated_outside_of_it() -> None:
    """Nothing can be written to its buffers there."""
    with torch.inference_mode():
        layer = awake(SpectralLinear(4, 5, 0.9)).eval()
    with torch.no_grad():
        for _ in range(2):
            layer.weight.numpy()[...] *= 2
            assert abs(torch.linalg.matrix_norm(layer.normalized_weight(), 2) - 0.9) < 1e-5


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_fused_optimisers_leave_a_contraction(kind: type[torch.optim.Optimizer]) -> None:
    """They write the weights without raising their version."""
    torch.manual_seed(0)
    layer = SpectralLinear(16, 16, 0.9)
    optimizer = kind(layer.parameters(), lr=0.01, fused=True)  # type: ignore[call-arg]
    for _ in range(200):
        layer.weight.grad, layer.bias.grad = -layer.weight.detach(), torch.zeros(16)  # grow
        optimizer.step()
        weight = layer.normalized_weight().detach()
    assert torch.linalg.matrix_norm(layer.weight, 2) > 2
    assert abs(torch.linalg.matrix_norm(weight, 2).item() - 0.9) < 0.01


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_computed_again_sees_the_same_vectors(compiled: bool) -> None:
    """Twice with one weight, an evaluation in between: a checkpoint's backward pass is such a second time."""
    layer = awake(SpectralLinear(6, 5, 0.5)).train()
    again = torch.compile(layer.normalized_weight, fullgraph=True, backend="aot_eager") if compiled else None
    for _ in range(3):
        layer.weight.detach().numpy()[...] *= 1.5
        first = layer.normalized_weight()
        second = again() if again else layer.normalized_weight()
        layer.norm_bound()
        assert torch.equal(first, second) and torch.equal(first, layer.normalized_weight())


def reference(layer: SpectralLayer, weight: Tensor) -> Tensor:
    twin = copy.deepcopy(layer).eval()
    twin.load_state_dict({**layer.state_dict(), "weight": weight})
    return twin.normalized_weight().detach()


SYMBOLIC = {
    "linear": lambda: awake(SpectralLinear(5, 3, 0.7)),
    "convolution": lambda: awake(SpectralConv2d(2, 3, 3, (3, 4), 0.7)),
}


@pytest.mark.parametrize("kind", SYMBOLIC)
def test_evaluation_before_the_first_eager_call(kind: str) -> None:
    """Compiled, exported, or mapped over its weights: never by vectors that have not converged."""
    layer = SYMBOLIC[kind]().eval()
    expected = reference(layer, layer.weight)
    size = (2, layer.in_features) if kind == "linear" else (2, layer.in_channels, *layer.size)
    x = torch.randn(size)
    exported = torch.export.export(copy.deepcopy(layer), (x,)).module()
    torch.testing.assert_close(exported(x), copy.deepcopy(layer)(x), rtol=1e-5, atol=1e-6)
    compiled = torch.compile(layer.normalized_weight, fullgraph=True, backend="aot_eager")
    for _ in range(2):  # computed in the graph, then kept
        torch.testing.assert_close(compiled(), expected, rtol=1e-5, atol=1e-6)
    layer.weight.detach().numpy()[...] += 1.0
    torch.testing.assert_close(compiled(), reference(layer, layer.weight), rtol=1e-5, atol=1e-6)
    weights = torch.stack([layer.weight.detach(), 2 * layer.weight.detach() + 1])
    for mode in (True, False):

        def normalized(weight: Tensor) -> Tensor:
            return torch.func.functional_call(Normalized(layer), {"layer.weight": weight}, ())

        layer.train(mode)
        mapped = torch.func.vmap(normalized)(weights)
        for weight, found in zip(weights, mapped, strict=True):
            torch.testing.assert_close(found, reference(layer, weight), rtol=1e-5, atol=1e-6)


class Normalized(nn.Module):
    def __init__(self, layer: SpectralLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> Tensor:
        return self.layer.normalized_weight()


def test_every_parameter_learns_after_the_zero_start() -> None:
    for net, x, context in nets():
        fresh = net.float()
        fresh(
            x.float(), context if context is None or not context.is_floating_point() else context.float()
        ).sum().backward()
        for name, p in fresh.named_parameters():
            assert p.grad is not None and p.grad.abs().sum() > 0, name
    assert LipschitzMLP(3)(torch.randn(2, 3)).abs().sum() == 0


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="elu, lipswish, sin"):
        LipschitzMLP(3, activation="gelu")
    with pytest.raises(ValueError, match="depth"):
        LipschitzMLP(3, depth=0)
    for bad in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            LipschitzMLP(3, lipschitz=bad)
    with pytest.raises(ValueError, match="odd kernels"):
        LipschitzConvNet(3, (4, 4), kernels=(3, 2))
    with pytest.raises(ValueError, match="iterations"):
        SpectralLinear(3, 3, 0.5, iterations=0)
    with pytest.raises(ValueError, match=r"\(B, 3, 4, 4\), got \(1, 3, 5, 4\)"):
        LipschitzConvNet(3, (4, 4))(torch.zeros(1, 3, 5, 4))
    with pytest.raises(ValueError, match="got none"):
        LipschitzMLP(3, classes=2)(torch.zeros(1, 3))
