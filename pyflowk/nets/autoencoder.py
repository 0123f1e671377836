"""Networks from events to a smaller code and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import require_counts
from .mlp import MLP

__all__ = ["Decoder", "Encoder", "code_shape"]


def code_shape(shape: Sequence[int], channels: int, halvings: int) -> tuple[int, ...]:
    """The shape of a code: of images (C, H, W) ``channels`` images of sides halved so often, of others ``channels``.

    Raises ValueError for sides that cannot be halved so often, and for halvings of what is no image.

    >>> code_shape((3, 32, 32), 4, 3), code_shape((12,), 4, 0)
    ((4, 4, 4), (4,))
    """
    require_counts("an autoencoder", channels=channels)
    require_counts("an autoencoder", 0, halvings=halvings)
    if len(shape) != 3:
        if halvings:
            raise ValueError(f"halvings: expected 0 for events {tuple(shape)}, which are no images, got {halvings}")
        return (channels,)
    if shape[1] % 2**halvings or shape[2] % 2**halvings:
        raise ValueError(f"halvings: expected sides of {tuple(shape)} that can be halved {halvings} times")
    return (channels, shape[1] >> halvings, shape[2] >> halvings)


class Encoder(nn.Module):
    r"""A network from events (B, \*shape) to ``answers`` numbers for each element of their code.

    The result is (B, answers, \*code), ``code_shape(shape, channels, halvings)``. Images go through a 3 x 3 convolution
    to ``width`` channels and on each level through ``depth`` residual blocks :math:`h + W_2 \phi(\mathrm{GN}(W_1
    \phi(\mathrm{GN}(h))))`, \phi SiLU, GN groups' norm; between levels a convolution of stride 2 doubles the channels,
    up to four times. Other events are flattened for an :class:`MLP` of ``depth`` hidden layers. Raises ValueError as
    :func:`code_shape`. Cost: the convolutions. Kingma, Welling, 2014, arXiv:1312.6114; levels of images as in Esser,
    Rombach, Ommer, 2021, arXiv:2012.09841.

    >>> import torch
    >>> from pyflowk.nets import Encoder
    >>> Encoder((1, 8, 8), channels=2, halvings=1, width=8, answers=2)(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 2, 2, 4, 4])
    """

    def __init__(
        self, shape: Sequence[int], channels: int, halvings: int, width: int = 32, depth: int = 1, answers: int = 1
    ) -> None:
        super().__init__()
        require_counts("Encoder", width=width, depth=depth, answers=answers)
        self.code, self.answers = code_shape(shape, channels, halvings), answers
        if len(self.code) == 1:
            layers = [nn.Flatten(), MLP(math.prod(shape), answers * channels, width, depth, "silu")]
            nn.init.normal_(layers[1].last.weight, std=width**-0.5)  # type: ignore[union-attr,arg-type]
        else:
            sizes = [width * min(1 << level, 4) for level in range(halvings + 1)]
            layers = [nn.Conv2d(shape[0], width, 3, padding=1)]
            for level, size in enumerate(sizes):
                layers += [nn.Conv2d(sizes[level - 1], size, 3, 2, 1)] if level else []
                layers += [_Residual(size) for _ in range(depth)]
            layers += [_norm(sizes[-1]), nn.SiLU(), nn.Conv2d(sizes[-1], answers * channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).reshape(x.shape[0], self.answers, *self.code)


class Decoder(nn.Module):
    """The way back of an :class:`Encoder` of the same sizes: codes (B, *code) -> (B, *shape).

    Levels are doubled by repeating pixels before a convolution.

    >>> import torch
    >>> from pyflowk.nets import Decoder
    >>> Decoder((1, 8, 8), channels=2, halvings=1, width=8)(torch.zeros(3, 2, 4, 4)).shape
    torch.Size([3, 1, 8, 8])
    """

    def __init__(self, shape: Sequence[int], channels: int, halvings: int, width: int = 32, depth: int = 1) -> None:
        super().__init__()
        require_counts("Decoder", width=width, depth=depth)
        self.shape, self.code = tuple(shape), code_shape(shape, channels, halvings)
        layers: list[nn.Module]
        if len(self.code) == 1:
            layers = [MLP(channels, math.prod(shape), width, depth, "silu")]
            nn.init.normal_(layers[0].last.weight, std=width**-0.5)  # type: ignore[union-attr,arg-type]
        else:
            sizes = [width * min(1 << level, 4) for level in range(halvings + 1)]
            layers = [nn.Conv2d(channels, sizes[-1], 3, padding=1)]
            for level in range(halvings, -1, -1):
                layers += [_Residual(sizes[level]) for _ in range(depth)]
                layers += [_Double(sizes[level], sizes[level - 1])] if level else []
            layers += [_norm(width), nn.SiLU(), nn.Conv2d(width, shape[0], 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).reshape(z.shape[0], *self.shape)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = _norm(width), _norm(width)
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, h: Tensor) -> Tensor:
        branch = self.first(F.silu(self.first_norm(h)))
        return h + self.second(F.silu(self.second_norm(branch)))


class _Double(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 8), channels)
