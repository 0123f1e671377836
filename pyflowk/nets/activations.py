"""Activations as modules, by the names of the one table in ``ops/activations.py``; which names each network takes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.activations import ACTIVATIONS
from ..ops.lipswish import lipswish, lipswish_formula

#: of conditioners.
CONDITIONER_ACTIVATIONS = ("elu", "gelu", "leaky_relu", "relu", "selu", "silu", "tanh")
#: of fields: they have two derivatives, since a divergence is differentiated.
FIELD_ACTIVATIONS = ("tanh", "softplus", "silu", "elu", "sin")
#: of contractions: their slope is at most 1 in size.
CONTRACTIVE_ACTIVATIONS = ("elu", "lipswish", "sin", "softplus", "tanh")


class Pointwise(nn.Module):
    """A fixed activation by its name; ``value_and_slope`` gives its derivative too."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.value, self.slope = ACTIVATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x)

    def value_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(x), self.slope(x)

    def extra_repr(self) -> str:
        return self.name


class LipSwish(nn.Module):
    r"""The activation :math:`\phi(x) = x\, \sigma(\beta x) / 1.1`, :math:`\beta > 0` learned; :math:`|\phi'| < 1`.

    :math:`\beta = \mathrm{softplus}(b)` with one parameter b that starts at 1/2; the slope of :math:`x \sigma(x)`
    is at most 1.09984, whatever :math:`\beta`. Smooth, so that a log-determinant can be trained through it.
    Chen, Behrmann, Duvenaud, Jacobsen, 2019, arXiv:1906.02735, section 3.3.

    >>> import torch
    >>> from pyflowk.nets import LipSwish
    >>> LipSwish()(torch.tensor([-1.0, 0.0, 1.0])).detach()
    tensor([-0.2492,  0.0000,  0.6599])
    """

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.value_and_slope(x)[0]

    def value_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        beta = F.softplus(self.beta).reshape(1)
        fused = x.dim() > 0 and x.dtype == beta.dtype and x.dtype in (torch.float32, torch.float64)
        return (lipswish if fused else lipswish_formula)(x, beta)


def make_activation(name: str, known: Iterable[str] = CONDITIONER_ACTIVATIONS, why: str = "") -> Pointwise | LipSwish:
    """The activation of that name; ValueError lists the names that this kind of network knows, and why only those."""
    if name not in known:
        raise ValueError(f"activation: expected one of {', '.join(known)}{why}; got {name!r}")
    return LipSwish() if name == "lipswish" else Pointwise(name)
