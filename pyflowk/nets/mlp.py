"""The plain fully connected conditioner."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from .._checks import require_counts
from ..ops.mlp import MLP_ACTIVATIONS, MOST_HIDDEN, MOST_UNITS, mlp
from ..ops.modes import autocasting, transformed
from .activations import make_activation
from .context import Network, add_context, context_vector, make_context


class MLP(Network):
    r"""A multi-layer perceptron, zero at the start: :math:`W_{n+1} \phi(W_n \ldots \phi(W_1 x + c))`.

    (B, in_features) -> (B, out_features). ``depth`` counts hidden layers of ``width`` units; ``activation`` is one of
    elu, gelu, leaky_relu, relu, selu, silu, tanh. With ``classes`` it takes ``net(x, labels)``, labels (B,) integers;
    with ``context_dim``, ``net(x, context)``, context (B, context_dim); the context enters the first layer as if
    concatenated to x. ``in_features`` may be 0: the output is then a learned constant, or a function of the context.

    ``fused`` says whether :func:`pyflowk.ops.mlp` computes it: None where that is faster, which is on a CPU for layers
    of up to 128 units, or half as many as there are rows; True wherever it can (float32 or float64, no autocast, no
    gelu, depth 4 and 512 units at most); False never.

    The last layer starts at zero, so that a coupling starts as the identity. Raises ValueError for an unknown
    activation, a depth below 1, x of another size and a context that is missing or not wanted, TypeError for x of
    another dtype. Cost: depth + 1 matrix products.

    >>> import torch
    >>> from pyflowk.nets import MLP
    >>> MLP(2, 3, width=16, classes=10)(torch.randn(5, 2), torch.arange(5))[0]
    tensor([0., 0., 0.], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int = 128,
        depth: int = 2,
        activation: str = "relu",
        context_dim: int | None = None,
        classes: int | None = None,
        fused: bool | None = None,
    ) -> None:
        super().__init__()
        require_counts("MLP", 0, in_features=in_features, out_features=out_features)
        require_counts("MLP", width=width, depth=depth)
        self.first = _linear(in_features, width)
        self.context = make_context(width, context_dim, classes)
        self.takes_context = self.context is not None
        hidden: list[nn.Module] = [make_activation(activation)]
        for _ in range(depth - 1):
            hidden += [nn.Linear(width, width), make_activation(activation)]
        self.hidden = nn.Sequential(*hidden)
        self.last = _linear(width, out_features)
        with torch.no_grad():
            self.last.weight.zero_()
            self.last.bias.zero_()
        self.in_features, self.activation, self.fused = in_features, activation, fused

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if x.shape[-1] != self.in_features:
            raise ValueError(f"MLP expects (B, {self.in_features}), got {tuple(x.shape)}")
        layers = self._fusable(x)
        if layers is None:
            dtype = self.first.weight.dtype if type(self.first) is nn.Linear else x.dtype
            if x.dtype != dtype and not autocasting(x):
                raise TypeError(f"MLP expects {dtype}, as its weights are, got {x.dtype}")
            return self.last(self.hidden(add_context(self.first(x), self.context, context)))
        shift = context_vector(self.context, context, x.shape[0])
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        return mlp(x, weights, biases, activation=self.activation, shift=shift)

    def _fusable(self, x: Tensor) -> list[nn.Linear] | None:
        """The layers, where one call is to compute them and nobody changed or watches them."""
        if self.fused is False or (self.fused is None and (not x.is_cpu or transformed())):
            return None
        modules = [self.first, *self.hidden, self.last]
        layers: list[nn.Linear] = modules[::2]
        if any(type(layer) is not nn.Linear for layer in layers) or any(map(_watched, modules)):
            return None
        units = [self.first.in_features, *(layer.out_features for layer in layers)]
        if min(units) < 1 or max(units) > MOST_UNITS or len(layers) > MOST_HIDDEN + 1:
            return None
        if x.dim() != 2 or x.dtype != self.last.weight.dtype or x.dtype not in (torch.float32, torch.float64):
            return None
        if self.activation not in MLP_ACTIVATIONS or autocasting(x):
            return None
        return layers if self.fused or max(units) <= max(128, x.shape[0] // 2) else None


def _watched(module: nn.Module) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks)


def _linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer, one of the sizes possibly 0, which torch would warn about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors", UserWarning)
        return nn.Linear(in_features, out_features)
