"""The plain convolutional conditioner of Glow, which may look at a second image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._checks import require_counts
from ..shapes import expand_context
from .activations import make_activation
from .context import Network, add_context, make_context
from .resnet import WeightNormConv2d


class ConvNet(Network):
    r"""Three convolutions, zero at the start: :math:`e^{3g} \odot (W_3 \phi(W_2 \phi(W_1 x + c)))`.

    (B, in_channels, H, W) -> (B, out_channels, H, W), by 3 x 3, 1 x 1 and 3 x 3 filters with ``width`` channels between
    them; the first two are weight-normalised, the last is zero and has a learned gain g per channel. ``classes`` or
    ``context_dim`` add the context's vector after the first convolution, as in :class:`MLP`; with ``context_channels``
    the context is an image (B, context_channels, H, W) that is put beside x instead. ``in_channels`` may be 0 there.

    Raises ValueError for an unknown activation, more than one kind of context, and a context that is missing or not
    wanted. Cost: the three convolutions. The shape of the network is that of Kingma, Dhariwal, 2018, arXiv:1807.03039,
    with weight normalisation (Salimans, Kingma, 2016, arXiv:1602.07868) where they have an ActNorm.

    >>> import torch
    >>> from pyflowk.nets import ConvNet
    >>> ConvNet(1, 2, width=8)(torch.randn(3, 1, 4, 4)).abs().sum().item()
    0.0
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 64,
        activation: str = "relu",
        context_dim: int | None = None,
        classes: int | None = None,
        context_channels: int | None = None,
    ) -> None:
        super().__init__()
        if context_channels is not None and (context_dim, classes) != (None, None):
            raise ValueError(
                f"ConvNet expects one kind of context, got {context_channels=}, {context_dim=}, {classes=}"
            )
        require_counts("ConvNet", 0, in_channels=in_channels, context_channels=context_channels or 0)
        require_counts("ConvNet", out_channels=out_channels, width=width)
        self.context_channels = context_channels
        self.first = WeightNormConv2d(in_channels + (context_channels or 0), width, 3)
        self.context = make_context(width, context_dim, classes)
        self.takes_context = self.context is not None or context_channels is not None
        self.second = WeightNormConv2d(width, width, 1)
        self.activation = make_activation(activation)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)
        self.log_gain = nn.Parameter(torch.zeros(out_channels, 1, 1))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if self.context_channels is not None:
            expected, context = (x.shape[0], self.context_channels, *x.shape[2:]), expand_context(context, x.shape[0])
            if context is None or context.shape != expected:
                got = "none" if context is None else tuple(context.shape)
                raise ValueError(f"this network expects an image {expected} as context, got {got}")
            x, context = torch.cat((x, context.to(x.dtype)), 1), None
        h = self.activation(add_context(self.first(x), self.context, context))
        return self.last(self.activation(self.second(h))) * torch.exp(3 * self.log_gain)
