"""The sampler of flows on a simplex, whose points are carried as embeddings."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Generator, Tensor

from .._checks import require_numbers
from ..nets.field import Field
from ..nets.simplex_field import SimplexField
from ..ops.draw import draw_uniform
from .grids import check_grid

__all__ = ["simplex_flow"]


def simplex_flow(
    field: SimplexField,
    like: Tensor,
    grid: Tensor,
    *,
    told: Field | None = None,
    temperature: float = 1.0,
    context: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    r"""Symbols (B, T) that a :class:`pyflowk.nets.SimplexField` makes of noise, one evaluation a step of the grid.

    A step from t to s moves the point towards the mean p of the symbols, :math:`h \leftarrow h + (c_s - c_t)\,(E^T p -
    h) / (1 - c_t)`, and the last one draws symbols from p. ``like`` (B, T) says how many are wanted. ``told`` answers
    in the field's place, such as a guided one; ``temperature`` divides all logits, and 0 takes the likeliest. Raises
    ValueError for a grid that does not rise, a temperature below 0, and logits that are not finite. Lee et al., 2026,
    arXiv:2602.16813.

    >>> import torch
    >>> from pyflowk.nets import SimplexField
    >>> from pyflowk.paths import SimplexPath
    >>> from pyflowk.solvers import simplex_flow, uniform_grid
    >>> field = SimplexField(SimplexPath(5), width=8, depth=1)
    >>> simplex_flow(field, torch.zeros(2, 3, dtype=torch.int64), uniform_grid(4)).shape
    torch.Size([2, 3])
    """
    require_numbers("simplex_flow", temperature=temperature)
    times, answering = check_grid(grid).to(like.device), field if told is None else told
    if times.is_cpu and times[0] > times[-1]:
        raise ValueError("grid: expected times that rise, from noise to data; got others")
    h, p = field.noise(like, generator), like.new_zeros(0)
    for t, s in pairwise(times):
        c, left = (share.to(h.dtype) for share in field.path.shares(t))
        logits = answering(t.float().expand(len(like)), h, context).float()
        if not logits.isfinite().all():
            raise ValueError(f"expected finite logits of the field, got others at time {t:.4g}")
        p = (logits / temperature if temperature else logits).softmax(-1)
        if not temperature:
            p = torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]).to(p.dtype)
        step = (field.path.shares(s)[0].to(h.dtype) - c) / left
        h = h + step * (field.embed(p) - h)
    if not p.numel():
        return like
    below = p.double().cumsum(-1)
    u = draw_uniform(like.shape, generator, dtype=torch.float64, device=like.device).unsqueeze(-1)
    return (below <= u * below[..., -1:]).sum(-1).clamp(max=p.shape[-1] - 1)
