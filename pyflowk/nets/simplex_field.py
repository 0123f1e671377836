"""The field of symbols on a simplex, of which it sees what their embeddings make."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from .._checks import require_counts
from ..ops.describe import described
from ..ops.draw import draw_normal
from ..paths.simplex import SimplexPath
from .field import Field
from .token_transformer import TokenTransformer

__all__ = ["SimplexField"]


class SimplexField(Field):
    r"""Logits (B, T, V) of symbols, from what embeddings E (V, d) make of points x of a :class:`SimplexPath`:
    :math:`h = E^T x`, (B, T, d).

    The point itself, V numbers a place, is never made where V is above 2 d: noise :math:`E^T n` is drawn as :math:`L
    \epsilon`, with d numbers and :math:`L L^T = E^T E`, whose law is the same, and a step of the simplex is a step of h
    (:meth:`embed`). h is brought to deviation 1, goes through a convolution over ``reach`` places at either side, and
    through the blocks of a :class:`TokenTransformer`, whose ``options`` follow. Embeddings are learned: their size does
    not matter, as signal and noise both have it. Raises TypeError for h that are no floats, ValueError for another
    shape. Cost: that of the transformer, and V d multiplications a place.

    >>> import torch
    >>> from pyflowk.nets import SimplexField
    >>> from pyflowk.paths import SimplexPath
    >>> field = SimplexField(SimplexPath(5), width=8, depth=1)
    >>> h = field.seen(torch.tensor([[0, 4]]), torch.tensor([0.5]))
    >>> field(torch.tensor([0.5]), h).shape
    torch.Size([1, 2, 5])
    """

    def __init__(self, path: SimplexPath, width: int = 128, depth: int = 4, *, reach: int = 2, **options: Any) -> None:
        super().__init__()
        require_counts("SimplexField", width=width)
        require_counts("SimplexField", 0, reach=reach)
        self.path, self.width = path, width
        self.table = nn.Embedding(path.symbols, width)
        self.first = nn.Conv1d(width, width, 1 + 2 * reach, padding=reach)
        self.net = _Vectors(1, path.symbols, width, depth, **options)
        self.takes_context = self.net.takes_context

    def no_context(self) -> Any:
        return self.net.no_context()

    def seen(self, x1: Tensor, t: Tensor, generator: Generator | None = None) -> Tensor:
        """h of symbols x1 (B, T) at times t (B,): a share of their embeddings and one of noise."""
        c, left = (share.to(self.table.weight).reshape(-1, 1, 1) for share in self.path.shares(t))
        return c * self.table(x1) + left * self.noise(x1, generator)

    def noise(self, like: Tensor, generator: Generator | None = None) -> Tensor:
        r""":math:`E^T n` for each place of symbols (B, T)."""
        e = self.table.weight
        whole = e.shape[0] <= 2 * e.shape[1]
        factor = e if whole else torch.linalg.cholesky((e.mT @ e).double()).mT.to(e.dtype)
        n = draw_normal((*like.shape, factor.shape[0]), generator, dtype=e.dtype, device=e.device)
        return n @ factor

    def embed(self, p: Tensor) -> Tensor:
        r""":math:`E^T p` of points or chances p (B, T, V)."""
        return p.to(self.table.weight.dtype) @ self.table.weight

    def forward(self, t: Tensor | float, x: Tensor, context: Tensor | None = None) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"expected embeddings, floats (B, T, {self.width}), got {described(x)}")
        if x.dim() != 3 or x.shape[2] != self.width:
            raise ValueError(f"expected embeddings (B, T, {self.width}), got {tuple(x.shape)}")
        t = torch.as_tensor(t, dtype=torch.float32, device=x.device)
        c, left = self.path.shares(t)
        e = self.table.weight.detach()
        size = e.square().mean().double() * (c.square() + left.square() * e.shape[0])
        h = x / size.sqrt().to(x.dtype).reshape(-1, 1, 1)
        return self.net(t, self.first(h.mT).mT, context)


class _Vectors(TokenTransformer):
    """A token transformer whose places are vectors already."""

    def _entered(self, ids: Tensor, seen: Tensor | None = None, before: Tensor | None = None, start: int = 0) -> Tensor:
        return ids
