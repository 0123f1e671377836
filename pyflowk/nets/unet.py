"""The U-Net of diffusion models as a vector field on images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import require_counts
from .attention import SelfAttention, heads_of, zero_
from .context import make_context
from .dual import Dual, DualField, affine, concatenated, group_norm
from .embedding import TimeEmbedding, heard
from .time import Clock

__all__ = ["UNet"]


class UNet(DualField):
    r"""A vector field on images (B, C, H, W): residual blocks on a ladder of resolutions down and up again.

    Level i, of half the sides of the one before, has ``width * multipliers[i]`` channels and ``blocks`` residual blocks
    on the way down, one more on the way up, where each takes beside its input what the way down left. A block is
    :math:`h + W_2 \phi((1 + a)\, \mathrm{GN}(W_1 \phi(\mathrm{GN}(h))) + b)`, GN groups' norm and :math:`\phi` SiLU,
    with scale a and shift b functions of time and context (``classes`` or ``context_dim``, added to the time's vector;
    a ``droppable`` one may be None). Levels named in ``attention`` have self-attention after each block, as the middle
    has. The time enters by a :class:`TimeEmbedding` of the kind ``time`` and the scale ``time_scale``.

    Any H and W will do: of an odd side halving leaves (side + 1) / 2, and on the way up it is doubled and the last row
    or column dropped. With an ``interval`` the time's vector is one of the gap to its end too; ``late`` gives it no new
    weights: the way up hears the end in place of the time (Lee et al., 2025, arXiv:2510.24474). The ends of all
    residual branches and of the whole start at zero: the flow starts as the identity. Its answer has as many channels
    as x, or ``outputs``. Raises ValueError for no level, one that attends and is not there, and a context that is
    missing or not wanted. Cost: the convolutions; attention, T^2 for T pixels. Nothing is random: there is no dropout.

    Ho et al., 2020, arXiv:2006.11239; this form: Dhariwal, Nichol, 2021, arXiv:2105.05233.

    >>> import torch
    >>> from pyflowk.nets import UNet
    >>> UNet(1, width=8)(0.5, torch.ones(2, 1, 7, 6)).shape
    torch.Size([2, 1, 7, 6])
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (1, 2),
        time: str = "sinusoidal",
        time_scale: float = 1000.0,
        context_dim: int | None = None,
        classes: int | None = None,
        droppable: bool = False,
        interval: bool = False,
        late: bool = False,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        outputs = channels if outputs is None else outputs
        require_counts("UNet", channels=channels, width=width, blocks=blocks, levels=len(multipliers), outputs=outputs)
        require_counts("UNet", **{f"multipliers[{i}]": m for i, m in enumerate(multipliers)})
        if not set(attention) <= set(range(len(multipliers))):
            raise ValueError(f"attention: expected levels from 0 to {len(multipliers) - 1}, got {tuple(attention)}")
        features, last = 4 * width, len(multipliers) - 1
        self.time = TimeEmbedding(features, time, time_scale, interval=interval and not late)
        self.context = make_context(features, context_dim, classes, droppable)
        self.takes_context, self.hears_end, self.late = self.context is not None, interval or late, late
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        left, size = [width], width
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                down.append(_Block(size, width * multiplier, features, level in attention))
                left.append(size := width * multiplier)
            if level < last:
                down.append(_Down(size))
                left.append(size)
        self.middle = nn.ModuleList((_Block(size, size, features, True), _Block(size, size, features, False)))
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                up.append(_Block(size + left.pop(), width * multiplier, features, level in attention))
                size = width * multiplier
            if level:
                up.append(_Up(size))
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.norm = _norm(size)
        self.last = zero_(nn.Conv2d(size, outputs, 3, padding=1))

    def _run(self, clock: Clock, x: Dual, context: Tensor | None) -> Dual:
        first, last = (c.activated("silu") for c in heard(self.time, self.context, clock, x.value, context, self.late))
        h = affine(self.first, x)
        left = [h]
        for layer in self.down:
            h = layer(h, first)
            left.append(h)
        for layer in self.middle:
            h = layer(h, first)
        for layer in self.up:
            h = layer(h, left[-1]) if isinstance(layer, _Up) else layer(concatenated(h, left.pop()), last)
        return affine(self.last, group_norm(self.norm, h).activated("silu"))


class _Block(nn.Module):
    """A residual block, and attention after it."""

    def __init__(self, inputs: int, outputs: int, features: int, attends: bool) -> None:
        super().__init__()
        self.first_norm, self.second_norm = _norm(inputs), _norm(outputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = zero_(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.modulation = nn.Linear(features, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        self.attention = _Attention(outputs) if attends else None

    def forward(self, h: Dual, condition: Dual) -> Dual:
        modulation = affine(self.modulation, condition).chunk(2)
        scale, shift = (part.linear(lambda c: c[..., None, None]) for part in modulation)
        branch = affine(self.first, group_norm(self.first_norm, h).activated("silu"))
        branch = group_norm(self.second_norm, branch).scaled(scale + 1, shift).activated("silu")
        h = affine(self.second, branch) + (h if self.skip is None else affine(self.skip, h))
        return h if self.attention is None else self.attention(h)


class _Attention(nn.Module):
    """Attention of all pixels to each other, added to what there is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.tokens = SelfAttention(width, heads_of(width))
        zero_(self.tokens.out)

    def forward(self, h: Dual) -> Dual:
        answer = self.tokens(group_norm(self.norm, h).linear(lambda x: x.flatten(2).mT))
        return h + answer.linear(lambda x: x.mT.unflatten(2, h.value.shape[2:]))


class _Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, h: Dual, condition: Tensor) -> Dual:
        return affine(self.conv, h)


class _Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, h: Dual, like: Dual) -> Dual:
        """h in twice the resolution, as much of it as the image beside it has."""
        rows, columns = like.value.shape[2:]
        twice = h.linear(lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest")[..., :rows, :columns])
        return affine(self.conv, twice)


def _norm(channels: int) -> nn.GroupNorm:
    """A norm of up to 32 groups, each of at least 4 channels where there are as many."""
    return nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // 4))), channels)
