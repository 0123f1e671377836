"""The diffusion transformer as a vector field on images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._checks import require_counts
from ..ops import modulated_norm, modulated_norm_with_tangents
from ..ops.dtypes import state_dtype
from .attention import Past, SelfAttention, heads_of, zero_
from .context import make_context
from .dual import Dual, DualField, affine
from .embedding import TimeEmbedding, heard
from .time import Clock

__all__ = ["DIT_SIZES", "POSITIONS", "DiT"]

#: width, depth and heads, by the names of the paper.
DIT_SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
POSITIONS = ("both", "rotary", "sincos")


class DiT(DualField):
    r"""A vector field on images (B, C, H, W): a transformer of patches, which time and context scale, shift and gate.

    Patches of ``patch`` x ``patch`` pixels become tokens of ``width`` channels. Each of ``depth`` blocks is :math:`h
    \leftarrow h + g_1\,\mathrm{Attention}((1 + a_1)\,\mathrm{LN}(h) + b_1)`, then the same with a perceptron of 4
    ``width`` hidden units (GELU, by tanh) and :math:`a_2, b_2, g_2`: six linear functions of SiLU of the time's vector
    plus the context's (``classes`` or ``context_dim``; a ``droppable`` one may be None) that start at zero, with the
    last layer ("adaLN-Zero"): the flow starts as the identity. Where a token is, is told by ``positions``: "rotary"
    turns queries and keys, half of their pairs by the row and half by the column, at rates :math:`100^{-i / (d / 4)}`
    of heads of d channels, by which they know the way to each other; "sincos" adds to the tokens the fixed waves of
    DiT, at rates :math:`10^{-4 i / (\mathrm{width} / 4)}`, by which they know their place; "both" does both. With an
    ``interval`` the time's vector is one of the gap to its end too; ``late`` gives it no new weights: the last third of
    the blocks hears the end in place of the time (Lee et al., 2025, arXiv:2510.24474). ``qk_norm`` gives queries and
    keys a length of their own, so that long trainings in 16 bits keep finite logits.

    H and W are any multiples of the patch; the answer has as many channels as x, or ``outputs``. Raises ValueError for
    other sides, for heads that do not divide the width,
    widths and heads that are too narrow for four waves, unknown positions, and a context that is missing or not
    wanted. Cost: 24 depth width^2 multiplications a token, and 4 depth width T for T tokens.

    Peebles, Xie, 2023, arXiv:2212.09748; qk-norm: Dehghani et al., 2023, arXiv:2302.05442; rotary positions of two
    axes: Heo et al., 2024, arXiv:2403.13298.

    >>> import torch
    >>> from pyflowk.nets import DiT
    >>> DiT(1, patch=2, width=16, depth=1, heads=2)(0.5, torch.ones(2, 1, 4, 6)).shape
    torch.Size([2, 1, 4, 6])
    """

    def __init__(
        self,
        channels: int,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int | None = None,
        positions: str = "both",
        qk_norm: bool = True,
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
        require_counts("DiT", channels=channels, patch=patch, width=width, depth=depth, outputs=outputs)
        self.heads = heads_of(width) if heads is None else heads
        require_counts("DiT", heads=self.heads)
        if positions not in POSITIONS:
            raise ValueError(f"positions: expected one of {', '.join(POSITIONS)}; got {positions!r}")
        waving = width if positions == "sincos" else width // self.heads
        if waving % 4:
            raise ValueError(
                f"positions: {positions} expects a multiple of 4 channels to wave, got {waving} of {width=} and "
                f"heads={self.heads}"
            )
        self.channels, self.patch, self.width, self.positions = channels, patch, width, positions
        self.time = TimeEmbedding(width, time, time_scale, interval=interval and not late)
        self.context = make_context(width, context_dim, classes, droppable)
        self.takes_context, self.hears_end, self.late = self.context is not None, interval or late, late
        self.first = nn.Conv2d(channels, width, patch, stride=patch)
        self.blocks = nn.ModuleList(Block(width, self.heads, qk_norm) for _ in range(depth))
        self.modulation = zero_(nn.Linear(width, 2 * width))
        self.last = zero_(nn.Linear(width, patch * patch * outputs))

    @classmethod
    def named(cls, name: str, channels: int, **options: Any) -> DiT:
        """One of the paper's, "S/8" to "XL/2": size and patch; ``options`` are those of the class.

        >>> from pyflowk.nets import DiT
        >>> DiT.named("S/4", 3, classes=10).heads
        6
        """
        size, _, patch = name.partition("/")
        if size not in DIT_SIZES or not patch.isdecimal():
            raise ValueError(f"name: expected one of {', '.join(DIT_SIZES)}, / and a patch, as S/2; got {name!r}")
        width, depth, heads = DIT_SIZES[size]
        return cls(channels, int(patch), width, depth, heads, **options)

    def _run(self, clock: Clock, x: Dual, context: Tensor | None) -> Dual:
        p, image = self.patch, x.value
        if image.shape[2] % p or image.shape[3] % p:
            raise ValueError(f"DiT expects sides that are multiples of its patch {p}, got {tuple(image.shape)}")
        rows, columns = image.shape[2] // p, image.shape[3] // p
        first, last = (c.activated("silu") for c in heard(self.time, self.context, clock, image, context, self.late))
        h = affine(self.first, x).linear(lambda x: x.flatten(2).mT.contiguous())
        if self.positions != "rotary":
            h = Dual(h.value + sincos(rows, columns, self.width, image).to(h.value.dtype), h.tangents)
        rotation = None if self.positions == "sincos" else rotary(rows, columns, self.width // self.heads, image)
        turn = len(self.blocks) - max(1, len(self.blocks) // 3)
        for i, block in enumerate(self.blocks):
            h = block(h, first if i < turn else last, rotation)
        shift, scale = affine(self.modulation, last).chunk(2)
        patches = affine(self.last, modulated(h, shift, scale))
        return patches.linear(lambda x: _image(x.unflatten(1, (rows, columns)).unflatten(3, (p, p, -1))))


class Block(nn.Module):
    """Attention and a perceptron, each scaled, shifted and gated."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, qk_norm)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = zero_(nn.Linear(width, 6 * width))

    def forward(
        self,
        h: Dual,
        condition: Dual,
        rotation: tuple[Tensor, Tensor] | None,
        seen: Tensor | None = None,
        past: Past | None = None,
    ) -> Dual:
        b1, a1, g1, b2, a2, g2 = affine(self.modulation, condition).chunk(6)
        attended = self.attention(modulated(h, b1, a1), rotation, past, seen=seen)
        h = h + attended.scaled(g1.linear(lambda g: g.unsqueeze(1)))
        hidden = affine(self.first, modulated(h, b2, a2)).activated("gelu_tanh")
        return h + affine(self.second, hidden).scaled(g2.linear(lambda g: g.unsqueeze(1)))


def modulated(h: Dual, shift: Dual, scale: Dual) -> Dual:
    """Tokens (B, T, F) of mean 0 and variance 1, scaled and shifted by the row (B or 1, F): adaLN."""
    rows, dtype = h.value.shape[0], h.value.dtype  # the length of a tensor is a constant to torch.export
    a, b = (part.value.to(dtype).expand(rows, -1) for part in (scale, shift))
    if h.tangents is None:
        return Dual(modulated_norm(h.value, a, b))
    value, images = modulated_norm_with_tangents(h.value, a, b, h.tangents)
    if scale.tangents is not None and shift.tangents is not None:  # of the one way along which the time moves
        a, b = (part.tangents[:, 0].to(dtype).expand(rows, -1) for part in (scale, shift))  # type: ignore[index]
        images = images + modulated_norm(h.value, a - 1, b).unsqueeze(1)
    return Dual(value, images)


def _image(patches: Tensor) -> Tensor:
    """(B, rows, columns, p, p, C) to (B, C, rows p, columns p)."""
    return patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def rotary(rows: int, columns: int, channels: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (rows columns, channels / 2) that turn a head's queries and keys at each patch."""
    angles = _angles(rows, columns, channels // 4, 100.0, x)
    return angles.cos().flatten(1), angles.sin().flatten(1)


TEXT_PAIRS = 8


def turns_ahead(x: Tensor, rows: int, columns: int, channels: int, text: int | None) -> Tensor:
    """Angles (text + rows columns, channels / 2) by which STARFlow turns a head's queries and keys: by row and column
    of the token that is to come, and, unless ``text`` is None, 8 pairs by the place in a text in front, in widths of
    the image. Gu et al., 2025, arXiv:2506.06276, by their code."""
    pairs = channels // 2 if text is None else channels // 2 - TEXT_PAIRS
    angles = _angles(rows, columns, pairs // 2, 1e4, x).flatten(1)
    if text is None:
        return angles
    rates = 1e4 ** (-torch.arange(TEXT_PAIRS, dtype=angles.dtype, device=x.device) / TEXT_PAIRS)
    places = torch.arange(text, dtype=angles.dtype, device=x.device) * (columns / max(text, 1))
    return torch.block_diag(places[:, None] * rates, angles).roll(-TEXT_PAIRS, 1)


def sincos(rows: int, columns: int, width: int, x: Tensor) -> Tensor:
    """The waves (rows columns, width) of each patch's place: its column's sines, cosines, then its row's."""
    angles = _angles(rows, columns, width // 4, 1e4, x).flip(1)
    return torch.cat((angles.sin(), angles.cos()), 2).flatten(1)


def _angles(rows: int, columns: int, waves: int, base: float, x: Tensor) -> Tensor:
    """Row and column of every patch times the rates base^(-i / waves), (rows columns, 2, waves)."""
    place: dict[str, Any] = {"dtype": state_dtype(x), "device": x.device}
    rates = base ** (-torch.arange(waves, **place) / waves)
    grid = torch.cartesian_prod(torch.arange(rows, **place), torch.arange(columns, **place))
    return grid.unsqueeze(2) * rates
