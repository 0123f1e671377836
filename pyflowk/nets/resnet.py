"""The convolutional conditioner of RealNVP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import require_counts
from .activations import make_activation
from .context import Network, add_context, make_context


class WeightNormConv2d(nn.Conv2d):
    r"""A convolution whose filters have a learned length: :math:`w = g\, v / |v|`, one g per output channel.

    Same padding, stride 1; (B, in_channels, H, W) -> (B, out_channels, H, W). g starts at the filters' own lengths.
    Salimans, Kingma, 2016, arXiv:1602.07868. Cost: that of the convolution and one pass over its weights.

    >>> import torch
    >>> from pyflowk.nets import WeightNormConv2d
    >>> WeightNormConv2d(2, 3, 3)(torch.zeros(1, 2, 5, 4)).shape
    torch.Size([1, 3, 5, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.gain = nn.Parameter(self._length().detach())

    def _length(self) -> Tensor:
        return torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * (self.gain / self._length())
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class ResidualConvNet(Network):
    r"""Residual blocks of weight-normalised convolutions, zero at the start: :math:`h \leftarrow h + F(\phi(h))`.

    (B, in_channels, H, W) -> (B, out_channels, H, W). A 3 x 3 convolution to ``width`` channels, ``blocks`` residual
    blocks of two 3 x 3 convolutions each, a 1 x 1 convolution from every stage added up (skip connections), and one to
    the output that starts at zero. No batch norm: a row never depends on its mates. ``classes`` or ``context_dim``
    add the context's vector after the first convolution, as in :class:`MLP`.

    Raises ValueError for an unknown activation and a context that is missing or not wanted.
    Cost: 2 blocks + 1 convolutions of width x width x 9. The shape of the network is that of Dinh, Sohl-Dickstein,
    Bengio, 2017, arXiv:1605.08803, section 3.5 and 4.1.

    >>> import torch
    >>> from pyflowk.nets import ResidualConvNet
    >>> ResidualConvNet(1, 2, width=8, blocks=1)(torch.randn(3, 1, 4, 4)).abs().sum().item()
    0.0
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 64,
        blocks: int = 4,
        activation: str = "relu",
        context_dim: int | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        require_counts("ResidualConvNet", in_channels=in_channels, out_channels=out_channels, width=width)
        require_counts("ResidualConvNet", 0, blocks=blocks)
        self.first = WeightNormConv2d(in_channels, width, 3)
        self.context = make_context(width, context_dim, classes)
        self.takes_context = self.context is not None
        self.blocks = nn.ModuleList(_block(width, activation) for _ in range(blocks))
        self.skips = nn.ModuleList(WeightNormConv2d(width, width, 1) for _ in range(blocks + 1))
        self.activation = make_activation(activation)
        self.last = nn.Conv2d(width, out_channels, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = add_context(self.first(x), self.context, context)
        total = self.skips[0](h)
        for block, skip in zip(self.blocks, list(self.skips)[1:], strict=True):
            h = h + block(h)
            total = total + skip(h)
        return self.last(self.activation(total))


def _block(width: int, activation: str) -> nn.Sequential:
    return nn.Sequential(
        make_activation(activation),
        WeightNormConv2d(width, width, 3),
        make_activation(activation),
        WeightNormConv2d(width, width, 3),
    )
