"""Rows of data as a distribution: the source of a transport from one population to another."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..ops.draw import draw_integers
from .base import Distribution


class Empirical(Distribution):
    r"""Rows (N, \*shape) of data, each as likely: what a path starts from when its noise is data too.

    Samples are rows drawn with replacement, ``log_prob`` is that of hitting one of the rows that equal an event,
    :math:`\log \#\{i : x_i = z\} / N`: there is no density. A context is accepted and ignored, a temperature changes
    nothing. The rows go with the state dict. Raises ValueError for none, TypeError for no tensor. Cost: a gather; of
    ``log_prob`` B N comparisons.

    >>> import torch
    >>> from pyflowk.distributions import Empirical
    >>> cells = Empirical(torch.tensor([[1.0], [1.0], [4.0]]))
    >>> cells.log_prob(torch.tensor([[1.0], [2.0]])).exp()
    tensor([0.6667, 0.0000])
    """

    reparameterised = False

    def __init__(self, rows: Tensor) -> None:
        if not isinstance(rows, Tensor):
            raise TypeError(f"Empirical expects a tensor of rows, got {type(rows).__name__}")
        if rows.dim() == 0 or not len(rows):
            raise ValueError(f"Empirical expects at least one row (N, *shape), got {tuple(rows.shape)}")
        super().__init__(rows.shape[1:])
        self.rows: Tensor
        self.register_buffer("rows", rows.detach().clone())

    def _log_prob(self, z: Tensor, context: Tensor | None, temperature: float) -> Tensor:
        flat, rows = z.reshape(len(z), self.dims), self.rows.reshape(len(self.rows), self.dims).to(z.dtype)
        hits = torch.stack([(rows == one).all(1).sum() for one in flat]) if len(flat) else flat.new_zeros(0)
        found = (hits.to(z.dtype) / len(rows)).log()
        return torch.where(flat.isnan().any(1), torch.nan, found)

    def _sample(self, n: int, context: Tensor | None, generator: Generator | None, temperature: float) -> Tensor:
        return self.rows[draw_integers(0, len(self.rows), (n,), generator, device=self.rows.device)]
