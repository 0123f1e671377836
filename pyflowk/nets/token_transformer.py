"""The token transformer: of each place of a row of symbols, how likely each symbol is."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import require_counts
from ..ops.describe import described
from ..ops.dtypes import state_dtype
from ..ops.modes import transformed
from ..space import Paired, Ragged
from .attention import heads_of, zero_
from .blockwise import Finished, Read, seen_by_blocks
from .context import add_context, make_context
from .dit import Block, modulated, rotary
from .dual import Dual, affine
from .embedding import TimeEmbedding
from .field import Field

__all__ = ["TokenTransformer"]


class TokenTransformer(Field):
    r"""Logits (B, T, outputs) of the symbols of each place, from symbols x (B, T): a transformer that looks both ways.

    Symbols below ``inputs`` become vectors of ``width`` channels, which go through ``depth`` blocks of :class:`DiT`:
    attention and a perceptron, each scaled, shifted and gated by linear functions of a vector, which are zero at the
    start, as the logits are. That vector is made of the time ("sinusoidal" or "fourier", see :class:`TimeEmbedding`)
    and the context (``classes`` or ``context_dim``; a ``droppable`` one may be None); ``time=None`` is for what does
    not depend on it, as what a mask hides does not, and a learned vector takes its place. Rotary positions let a row
    have any length: queries and keys are turned by angles :math:`10^{-4 i / (d / 2)}` times the place, or, with a
    ``grid`` (rows, columns) of T places, by row and column as in :class:`DiT`. A :class:`pyflowk.space.Ragged` has rows
    of several lengths, (B, L, outputs), of which no place sees what lies beyond the end, where logits mean nothing.
    ``qk_norm`` gives queries and keys a length of their own.

    With ``block`` a place sees the symbols of its own block of so many places, and of those before it, alone. x may
    then be :class:`pyflowk.space.Paired` noise and data, of which each block of noise sees those of the data before it:
    what such a network learns from, all blocks at once. What finished blocks leave is kept: of a block behind them,
    whose context is :class:`Finished`, only the block itself is looked at; :meth:`read` adds one that is finished.

    Raises ValueError for heads that do not divide the width into even numbers of channels (multiples of 4 on a grid),
    another number of places than the grid has, blocks with a time or a grid, a context that is missing or not wanted,
    and on the CPU for symbols out of range; TypeError for what are no integers. Cost: 12 depth width^2 multiplications
    a place, and 2 depth width T.

    Peebles, Xie, 2023, arXiv:2212.09748; of tokens: Lou, Meng, Ermon, 2024, arXiv:2310.16834; rotary positions: Su et
    al., 2021, arXiv:2104.09864; blocks: Arriola et al., 2025, arXiv:2503.09573.

    >>> import torch
    >>> from pyflowk.nets import TokenTransformer
    >>> TokenTransformer(6, 5, width=16, depth=1, heads=2)(0.5, torch.tensor([[0, 5, 3]])).shape
    torch.Size([1, 3, 5])
    """

    needs_answer = False

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 128,
        depth: int = 4,
        heads: int | None = None,
        *,
        reach: int = 0,
        grid: tuple[int, int] | None = None,
        block: int | None = None,
        qk_norm: bool = False,
        time: str | None = "sinusoidal",
        time_scale: float = 1000.0,
        context_dim: int | None = None,
        classes: int | None = None,
        droppable: bool = False,
    ) -> None:
        super().__init__()
        require_counts("TokenTransformer", inputs=inputs, outputs=outputs, width=width, depth=depth)
        require_counts("TokenTransformer", 0, reach=reach)
        self.heads = heads_of(width) if heads is None else heads
        require_counts("TokenTransformer", heads=self.heads)
        channels, even = width // self.heads, 2 if grid is None else 4
        if channels % even:
            raise ValueError(f"heads: expected heads of a multiple of {even} channels, got {width=} and {self.heads=}")
        if block is not None:
            require_counts("TokenTransformer", block=block)
            if time is not None or grid is not None:
                raise ValueError(f"block: expected rows without a grid, of which no time is told, got {grid=}, {time=}")
        self.inputs, self.outputs, self.width, self.grid, self.reach = inputs, outputs, width, grid, reach
        self.block = block
        self.table = nn.Embedding((1 + 2 * reach) * inputs + 1, width, padding_idx=-1)  # the last one is no symbol
        self.takes_time = time is not None
        self.time = None if time is None else TimeEmbedding(width, time, time_scale)
        self.constant = nn.Parameter(torch.randn(width)) if time is None else None
        self.context = make_context(width, context_dim, classes, droppable)
        self.takes_context = self.context is not None
        self.blocks = nn.ModuleList(Block(width, self.heads, qk_norm) for _ in range(depth))
        self.modulation = zero_(nn.Linear(width, 2 * width))
        self.last = zero_(nn.Linear(width, outputs))

    def forward(self, t: Tensor | float, x: Tensor | Ragged | Paired, context: Any = None) -> Tensor:
        return self.last(self.features(t, x, context))

    def features(self, t: Tensor | float, x: Tensor | Ragged | Paired, context: Any = None) -> Tensor:
        """What the last layer makes logits of, (B, T, width)."""
        if isinstance(context, Finished):
            return self._behind(context, x)[0]
        if isinstance(x, Paired):
            return self._against(t, x, context)
        ids, seen = (x.values.where(x.mask, 0), x.mask) if isinstance(x, Ragged) else (x, None)
        h = self._entered(ids, seen)
        if self.block is not None:
            among = seen_by_blocks(h.shape[1], self.block, False, h)
            seen = among if seen is None else among & seen[:, None]
        return self._through(h, self._condition(t, h, context), self._rotation(h), seen)

    def read(self, block: Tensor, finished: Finished) -> Finished:
        """``finished`` blocks and one more, (B, T), with the keys and values that all of them leave."""
        pasts = tuple(past.tensors for past in self._behind(finished, block)[1])
        return Finished(torch.cat((finished.symbols, block), 1), finished.context, pasts)

    def _behind(self, finished: Finished, x: Any) -> tuple[Tensor, list[Read]]:
        """What the block x (B, T) behind finished ones is made of, and what is kept of it in each layer."""
        self._require_blocks()
        start = finished.symbols.shape[1]
        if start % self.block or x.shape[1] > self.block:  # type: ignore[operator]
            raise ValueError(f"expected a block of up to {self.block} behind whole ones, got {x.shape[1]} at {start}")
        tail = finished.symbols[:, max(0, start - self.reach) :]
        h = self._entered(torch.cat((tail, x), 1), start=start - tail.shape[1])[:, tail.shape[1] :]
        pasts = [Read(pair) for pair in finished.pasts] or [Read(None) for _ in self.blocks]
        rotation = tuple(part[start:] for part in self._rotation(h, start + x.shape[1]))
        return self._through(h, self._condition(0.0, h, finished.context), rotation, None, pasts), pasts

    def _against(self, t: Tensor | float, x: Paired, context: Any) -> Tensor:
        """Each block of noise, before which stand those of the data."""
        self._require_blocks()
        h = torch.cat((self._entered(x.x1), self._entered(x.x0, before=x.x1)), 1)
        places = x.x1.shape[1]
        rotation = tuple(part.repeat(2, 1) for part in self._rotation(h, places))
        seen = seen_by_blocks(places, self.block or places, True, h)
        return self._through(h, self._condition(t, h, context), rotation, seen)[:, places:]

    def _require_blocks(self) -> None:
        if self.block is None:
            raise ValueError("expected a network of blocks, TokenTransformer(..., block=8), got one that sees all")

    def _rotation(self, h: Tensor, places: int | None = None) -> Any:
        channels = self.width // self.heads
        if self.grid is not None:
            return rotary(*self.grid, channels, h)
        return turns(h.shape[1] if places is None else places, channels, h)

    def _through(
        self, h: Tensor, vector: Tensor, rotation: Any, seen: Tensor | None, pasts: list[Read] | None = None
    ) -> Tensor:
        condition, tokens = Dual(F.silu(vector)), Dual(h)
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, condition, rotation, seen, None if pasts is None else pasts[i])
        shift, scale = affine(self.modulation, condition).chunk(2)
        return modulated(tokens, shift, scale).value

    def _entered(self, ids: Tensor, seen: Tensor | None = None, before: Tensor | None = None, start: int = 0) -> Tensor:
        """Symbols as vectors: the sum of what each one that is near says at its distance; where there are blocks, of
        none behind its own, and in earlier ones of those of ``before``. The first place has the number ``start``."""
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise TypeError(f"expected symbols, integers (B, T), got {described(ids)}")
        places = "T" if self.grid is None else self.grid[0] * self.grid[1]
        if ids.dim() != 2 or (self.grid is not None and ids.shape[1] != places):
            raise ValueError(f"TokenTransformer expects (B, {places}), got {tuple(ids.shape)}")
        if ids.is_cpu and ids.numel() and not transformed() and not 0 <= ids.min() <= ids.max() < self.inputs:
            raise ValueError(f"expected symbols 0 to {self.inputs - 1}, got {ids.min()} to {ids.max()}")
        if not self.reach or not ids.shape[1]:  # where there are no places, none is near
            return self.table(ids.long())
        none = self.table.num_embeddings - 1
        near = self._near(ids.long() if seen is None else ids.long().masked_fill(~seen, none))
        distance = torch.arange(1 + 2 * self.reach, device=ids.device)
        if self.block is not None:
            place = start + torch.arange(ids.shape[1], device=ids.device).unsqueeze(1)
            ahead = (place + distance - self.reach).div(self.block, rounding_mode="floor") - place // self.block
            near = near if before is None else torch.where(ahead < 0, self._near(before.long()), near)
            near = near.masked_fill(ahead > 0, none)
        return self.table(torch.where(near == none, none, near + self.inputs * distance)).sum(2)

    def _near(self, ids: Tensor) -> Tensor:
        """The symbols around each place, (B, T, 1 + 2 reach)."""
        none = self.table.num_embeddings - 1
        return F.pad(ids, [self.reach] * 2, value=none).unfold(1, 1 + 2 * self.reach, 1)

    def _condition(self, t: Tensor | float, h: Tensor, context: Tensor | None) -> Tensor:
        """What every block hears, (B, width), or one row for all where it is the same."""
        if self.time is None:
            vector: Tensor | None = self.constant
        else:
            times = torch.as_tensor(t, dtype=state_dtype(h), device=h.device)
            if times.dim() > 1 or (times.dim() == 1 and times.shape[0] != h.shape[0]):
                raise ValueError(f"expected one time () or one for each of {h.shape[0]} rows, got {tuple(times.shape)}")
            vector = self.time(times)
        assert vector is not None
        if vector.dim() == 1:
            vector = vector.expand(1 if self.context is None else h.shape[0], -1)
        return add_context(vector, self.context, context)


def turns(places: int, channels: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, channels / 2) that turn a head's queries and keys at each of so many places."""
    dtype, half = state_dtype(like), channels // 2
    rates = 1e4 ** (-torch.arange(half, dtype=dtype, device=like.device) / half)
    angles = torch.arange(places, dtype=dtype, device=like.device).unsqueeze(1) * rates
    return angles.cos(), angles.sin()
