"""Networks with a known Lipschitz constant below one: the branches of residual flows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import require_counts
from ..ops.power_series import MOST_FACTORS, power_series
from .activations import CONTRACTIVE_ACTIVATIONS, make_activation
from .branch import Branch, TransposedJacobian
from .context import add_context, make_context
from .spectral import SpectralConv2d, SpectralLayer, SpectralLinear


class LayerChain(TransposedJacobian):
    r"""The transposed Jacobian of layers and slopes, a closed chain: :math:`v \leftarrow \tilde W_1^T (s_1 \circ
    \tilde W_2^T (s_2 \circ \ldots v))`. No graph is walked, slopes are computed once."""

    def __init__(self, layers: Sequence[SpectralLayer], weights: Sequence[Tensor], slopes: Sequence[Tensor]) -> None:
        self.layers, self.weights, self.slopes = layers, weights, slopes

    def __call__(self, v: Tensor) -> Tensor:
        return self._chain(v, self._adjoint)

    def many(self, v: Tensor) -> Tensor:
        # they join the rows, as vmap would have it, which cannot where the number of rows is symbolic
        return self._chain(v, lambda i, v: self._adjoint(i, v.flatten(0, 1)).unflatten(0, v.shape[:2]))

    def _chain(self, v: Tensor, adjoint: Callable[[int, Tensor], Tensor]) -> Tensor:
        v = adjoint(-1, v)
        for i in range(len(self.slopes) - 1, -1, -1):
            v = adjoint(i, v * self.slopes[i])
        return v

    def _adjoint(self, layer: int, v: Tensor) -> Tensor:
        return self.layers[layer].apply_adjoint(self.weights[layer], v)

    def rows(self, index: Tensor | slice) -> LayerChain:
        return LayerChain(self.layers, self.weights, [slope[index] for slope in self.slopes])


class MatrixChain(LayerChain):
    """The transposed Jacobian of 2 to 5 matrices and the slopes between them, for x (B, features)."""

    def many(self, v: Tensor) -> Tensor:
        return self(v)  # a product broadcasts

    def power_series(
        self, probe: Tensor, reached: Tensor | None, terms: int, exact_terms: int, survival: float
    ) -> tuple[Tensor, Tensor]:
        return power_series(
            probe, self.slopes, self.weights, reached, terms=terms, exact_terms=exact_terms, survival=survival
        )


class LipschitzNet(Branch):
    """A chain of normalised layers and activations of slope at most 1: the Lipschitz constants multiply."""

    layers: nn.ModuleList
    activations: nn.ModuleList

    def _set_up(
        self, layers: list[SpectralLayer], activation: str, width: int, context_dim: int | None, classes: int | None
    ) -> None:
        self.layers = nn.ModuleList(layers)
        self.activations = nn.ModuleList(
            make_activation(activation, CONTRACTIVE_ACTIVATIONS, " (slope at most 1)") for _ in layers[1:]
        )
        self.context = make_context(width, context_dim, classes)
        self.takes_context = self.context is not None
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.given(context)(x)

    def given(self, context: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """The network as a function of x alone, its weights normalised once: for many evaluations."""
        layers, weights = self._normalized()

        def evaluate(x: Tensor) -> Tensor:
            h = self._first(layers[0], weights[0], x, context)
            for layer, weight, activation in zip(layers[1:], weights[1:], self.activations, strict=True):
                h = _affine(layer, weight, activation(h))
            return h

        return evaluate

    def linearize(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, TransposedJacobian]:
        r"""The value at x and the map :math:`v \mapsto J^T v` there, both differentiable in x and the weights."""
        layers, weights = self._normalized()
        h, slopes = self._first(layers[0], weights[0], x, context), []
        for layer, weight, activation in zip(layers[1:], weights[1:], self.activations, strict=True):
            h, slope = activation.value_and_slope(h)  # type: ignore[operator]
            slopes.append(slope)
            h = _affine(layer, weight, h)
        matrices = x.dim() == 2 and 2 <= len(layers) <= MOST_FACTORS
        matrices = matrices and all(isinstance(layer, SpectralLinear) for layer in layers)
        return h, (MatrixChain if matrices else LayerChain)(layers, weights, slopes)

    def contraction(self) -> float:
        """A certified Lipschitz constant of the network as it is now: the product of its layers' ``norm_bound``.

        In evaluation mode it is at most ``lipschitz`` (convolutions: to 1 % each). In training mode it tells how far
        the running estimates of the norms lag behind. Waits for the device; cached until a weight changes.
        """
        return math.prod(layer.norm_bound() for layer in self.layers)  # type: ignore[operator]

    def _normalized(self) -> tuple[list[SpectralLayer], list[Tensor]]:
        layers: list[SpectralLayer] = list(self.layers)  # type: ignore[arg-type]
        return layers, [layer.normalized_weight() for layer in layers]

    def _first(self, layer: SpectralLayer, weight: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        return add_context(_affine(layer, weight, x), self.context, context)


def _affine(layer: SpectralLayer, weight: Tensor, x: Tensor) -> Tensor:
    if isinstance(layer, SpectralConv2d):
        return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding)
    return F.linear(x, weight, layer.bias)  # type: ignore[arg-type]


class LipschitzMLP(LipschitzNet):
    r"""A perceptron that contracts: :math:`|g(x) - g(y)| \le L |x - y|`, L = ``lipschitz`` < 1, zero at the start.

    (B, features) -> (B, features); ``depth`` hidden layers of ``width`` units, each layer's norm held to
    :math:`L^{1/(depth + 1)}` by :class:`SpectralLinear`. ``activation`` is one of elu, lipswish, sin, softplus, tanh.
    ``classes`` or ``context_dim`` add the context's vector to the first layer, as in :class:`MLP`: the bound is one in
    x, for every context. Raises ValueError for a Lipschitz constant outside (0, 1), a depth below 1, an unknown
    activation, a context that is missing or not wanted. Cost: depth + 1 matrix products, and a few matrix-vector
    products for the norms. Behrmann, Grathwohl, Chen, Duvenaud, Jacobsen, 2019, arXiv:1811.00995.

    >>> import torch
    >>> from pyflowk.nets import LipschitzMLP
    >>> net = LipschitzMLP(2, width=16, lipschitz=0.9).eval()
    >>> torch.nn.init.normal_(net.layers[-1].weight).shape
    torch.Size([2, 16])
    >>> net.contraction() < 0.9001
    True
    """

    def __init__(
        self,
        features: int,
        width: int = 128,
        depth: int = 2,
        lipschitz: float = 0.9,
        activation: str = "lipswish",
        context_dim: int | None = None,
        classes: int | None = None,
        iterations: int = 2,
    ) -> None:
        super().__init__()
        require_counts("LipschitzMLP", features=features, width=width, depth=depth, iterations=iterations)
        self.lipschitz = _check_lipschitz(lipschitz)
        each = self.lipschitz ** (1 / (depth + 1))
        sizes = [features, *[width] * depth, features]
        layers: list[SpectralLayer] = [SpectralLinear(a, b, each, iterations) for a, b in pairwise(sizes)]
        self._set_up(layers, activation, width, context_dim, classes)


class LipschitzConvNet(LipschitzNet):
    r"""A convolutional network that contracts, as :class:`LipschitzMLP` on images; zero at the start.

    (B, channels, \*size) -> the same; convolutions with the odd ``kernels`` and ``width`` channels between, stride 1,
    zero padding, each held to :math:`L^{1/n}` by :class:`SpectralConv2d`. Raises ValueError as there, and for images
    of another size. Chen, Behrmann, Duvenaud, Jacobsen, 2019, arXiv:1906.02735, take 512 channels.

    >>> import torch
    >>> from pyflowk.nets import LipschitzConvNet
    >>> LipschitzConvNet(3, (8, 8), width=8)(torch.randn(2, 3, 8, 8)).abs().sum().item()
    0.0
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        width: int = 32,
        lipschitz: float = 0.9,
        activation: str = "lipswish",
        kernels: Sequence[int] = (3, 1, 3),
        context_dim: int | None = None,
        classes: int | None = None,
        iterations: int = 2,
    ) -> None:
        super().__init__()
        require_counts("LipschitzConvNet", channels=channels, width=width, iterations=iterations)
        if len(kernels) < 2 or any(k % 2 == 0 for k in kernels):
            raise ValueError(f"LipschitzConvNet expects at least two odd kernels, got {tuple(kernels)}")
        self.lipschitz = _check_lipschitz(lipschitz)
        each = self.lipschitz ** (1 / len(kernels))
        widths = [channels, *[width] * (len(kernels) - 1), channels]
        layers: list[SpectralLayer] = [
            SpectralConv2d(a, b, k, size, each, iterations=iterations) for a, b, k in zip(widths, widths[1:], kernels)
        ]
        self._set_up(layers, activation, width, context_dim, classes)

    def _first(self, layer: SpectralLayer, weight: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        layer.check_size(x)  # type: ignore[operator]
        return super()._first(layer, weight, x, context)


def _check_lipschitz(lipschitz: float) -> float:
    if not 0 < lipschitz < 1:
        raise ValueError(f"expected a Lipschitz constant between 0 and 1, got {lipschitz!r}")
    return float(lipschitz)
