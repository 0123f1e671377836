"""Glow as the peers and a user by hand would write it, around one network, without learned priors at the splits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LOG_2PI = math.log(2 * math.pi)


class Net(nn.Sequential):
    """The conditioner everybody uses: 3 x 3, 1 x 1 and 3 x 3 convolutions and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(),
            nn.Conv2d(width, out_channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(x)


class PlainNorm(nn.Module):
    """Scale and shift per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp() + self.bias, x.shape[2] * x.shape[3] * self.log_scale.sum()

    def inverse(self, z: Tensor) -> Tensor:
        return (z - self.bias) * (-self.log_scale).exp()


class PlainMix(nn.Module):
    """A 1x1 convolution in LU factors, applied by conv2d."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        p, lower, upper = torch.linalg.lu(torch.linalg.qr(torch.randn(channels, channels))[0])
        self.p: Tensor
        self.sign: Tensor
        self.eye: Tensor
        self.register_buffer("p", p)
        self.register_buffer("sign", upper.diagonal().sign())
        self.register_buffer("eye", torch.eye(channels))
        self.lower, self.upper = nn.Parameter(lower.tril(-1)), nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())

    def weight(self) -> Tensor:
        diagonal = torch.diag(self.sign * self.log_diagonal.exp())
        return self.p @ (self.lower.tril(-1) + self.eye) @ (self.upper.triu(1) + diagonal)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = nn.functional.conv2d(x, self.weight()[..., None, None])
        return z, x.shape[2] * x.shape[3] * self.log_diagonal.sum()

    def inverse(self, z: Tensor) -> Tensor:
        return nn.functional.conv2d(z, self.weight().inverse()[..., None, None])


class PlainCoupling(nn.Module):
    """The second half scaled by sigmoid(r + 2) and shifted."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        still, moved = x.chunk(2, 1)
        raw, t = self.net(still).chunk(2, 1)
        scale = torch.sigmoid(raw + 2)
        return torch.cat([still, moved * scale + t], 1), scale.log().flatten(1).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        still, moved = z.chunk(2, 1)
        raw, t = self.net(still).chunk(2, 1)
        return torch.cat([still, (moved - t) / torch.sigmoid(raw + 2)], 1)


class PlainStep(nn.Module):
    """ActNorm, 1x1 convolution, coupling."""

    def __init__(self, channels: int, net: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList([PlainNorm(channels), PlainMix(channels), PlainCoupling(net)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[0])
        for part in self.parts:
            x, ladj = part(x)
            total = total + ladj
        return x, total

    def inverse(self, z: Tensor) -> Tensor:
        for part in reversed(self.parts):
            z = part.inverse(z)  # type: ignore[operator]
        return z


class PlainSteps(nn.Module):
    """Steps one after the other, each checkpointed on request."""

    def __init__(self, channels: int, nets: list[Net], checkpointed: bool = False) -> None:
        super().__init__()
        self.steps = nn.ModuleList([PlainStep(channels, net) for net in nets])
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[0])
        for step in self.steps:
            x, ladj = checkpoint(step, x, use_reentrant=False) if self.checkpointed else step(x)
            total = total + ladj
        return x, total

    def inverse(self, z: Tensor) -> Tensor:
        for step in reversed(self.steps):
            z = step.inverse(z)  # type: ignore[operator]
        return z


def squeeze(x: Tensor) -> Tensor:
    """2 x 2 blocks into channels."""
    return nn.functional.pixel_unshuffle(x, 2)


def standard_normal(*parts: Tensor) -> Tensor:
    """Log-density of everything under N(0, 1), (B,)."""
    total = parts[0].new_zeros(parts[0].shape[0])
    for z in parts:
        total = total - 0.5 * z.square().flatten(1).sum(1) - 0.5 * z[0].numel() * LOG_2PI
    return total


class PlainGlow(nn.Module):
    """Several scales in plain torch; `make(channels, number)` gives the networks of one scale."""

    def __init__(self, channels: int, scales: int, make: Callable[[int], list[Net]]) -> None:
        super().__init__()
        sizes = [4 * channels * 2**i for i in range(scales)]
        self.levels = nn.ModuleList([PlainSteps(size, make(size)) for size in sizes])
        self.sizes = sizes

    def log_prob(self, x: Tensor) -> Tensor:
        total, left = x.new_zeros(x.shape[0]), []
        for i, level in enumerate(self.levels):
            x, ladj = level(squeeze(x))
            total = total + ladj
            if i + 1 < len(self.levels):
                x, out = x.chunk(2, 1)
                left.append(out)
        return total + standard_normal(x, *left)

    def sample(self, n: int, side: int) -> Tensor:
        x = torch.randn(n, self.sizes[-1], side >> len(self.levels), side >> len(self.levels))
        for level in reversed(self.levels):
            if x.shape[1] != level.steps[0].parts[1].p.shape[0]:  # type: ignore[union-attr, index]
                x = torch.cat([x, torch.randn_like(x)], 1)
            x = nn.functional.pixel_shuffle(level.inverse(x), 2)  # type: ignore[operator]
        return x
