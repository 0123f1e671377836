"""Samplers that take masks away one by one, or the surest first; `ctmc` says what their arguments are."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from .._checks import require_counts
from ..nets.field import Field
from ..paths import MixturePath
from ..space import Ragged
from .ctmc import Tally, Truncation, Walk, first_of

__all__ = ["CONFIDENCES", "first_hitting", "unmask"]


def first_hitting(
    field: Field | Callable[..., Tensor],
    x: Tensor | Ragged,
    path: MixturePath,
    *,
    known: Tensor | None = None,
    truncation: Truncation | None = None,
    context: Tensor | None = None,
    generator: Generator | None = None,
    tally: Tally | None = None,
) -> Tensor | Ragged:
    r"""Draw masked symbols one by one, at the times at which they come: exact, by as many calls as there are masks.

    With m masks left the next one goes at the time of :math:`\kappa = 1 - (1 - \kappa_t)\, U^{1/m}`, and is any: no
    step is too long, and no two symbols are drawn together. Arguments and errors are those of :func:`jump_flow`, and
    ValueError for uniform noise. Zheng et al., 2025, arXiv:2409.02908.

    >>> import torch
    >>> from pyflowk.paths import MixturePath
    >>> from pyflowk.solvers import first_hitting
    >>> first_hitting(lambda t, x: torch.zeros(1, 3, 2), torch.full((1, 3), 2), MixturePath(2)).shape
    torch.Size([1, 3])
    """
    walk = Walk(field, x, path, known, truncation, context, generator, tally)
    left = walk.masked("first_hitting")
    kappa = torch.zeros(len(left), dtype=torch.float64, device=left.device)
    for _ in range(int(left.flatten(1).sum(1).max()) if left.numel() else 0):
        count = left.flatten(1).sum(1)
        u = walk.even(1, torch.float64)[:, 0]
        kappa = torch.where(count > 0, 1 - (1 - kappa) * u ** (1 / count.clamp(min=1)), kappa)
        now = walk.some_of(left, 1)
        walk.move(walk.ask(path.time(kappa.clamp(max=1 - 1e-7)).float()), now.float(), torch.zeros_like(kappa).float())
        left = left & ~now
    return walk.end()


CONFIDENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "probability": lambda log_p, drawn: log_p.gather(-1, drawn.unsqueeze(-1)).squeeze(-1),
    "margin": lambda log_p, drawn: _margin(log_p),
    "entropy": lambda log_p, drawn: (log_p.exp() * log_p).nan_to_num().sum(-1),
}
"""How sure a field is of a symbol: by its probability, its lead on the next one, or the law's entropy."""


def unmask(
    field: Field | Callable[..., Tensor],
    x: Tensor | Ragged,
    path: MixturePath,
    steps: int,
    *,
    by: str = "probability",
    block: int | None = None,
    threshold: float | None = None,
    known: Tensor | None = None,
    truncation: Truncation | None = None,
    context: Tensor | None = None,
    generator: Generator | None = None,
    tally: Tally | None = None,
) -> Tensor | Ragged:
    r"""Draw masked symbols those first that the field is surest of: no sampler of its law, but what text asks for.

    In each of so many ``steps`` a draw is made for every mask, and the surest stay, as many as leave the rest for the
    steps that are left; how sure is said ``by`` the "probability" of what was drawn, its "margin" over the next, or
    the "entropy" of the law, all before it is truncated. With a ``threshold`` all whose probability is above it stay,
    too, and steps may be fewer. With a ``block`` rows (B, T) are filled from left to right, so many symbols at a time,
    among which the steps are divided. What comes out is not distributed as the model says: it is likelier and less
    diverse. Other arguments as in :func:`jump_flow`; ValueError for uniform noise. Nie et al., 2025, arXiv:2502.09992;
    blocks: Arriola et al., 2025, arXiv:2503.09573.

    >>> import torch
    >>> from pyflowk.paths import MixturePath
    >>> from pyflowk.solvers import unmask
    >>> unmask(lambda t, x: torch.zeros(1, 3, 2), torch.full((1, 3), 2), MixturePath(2), steps=2).shape
    torch.Size([1, 3])
    """
    require_counts("unmask", steps=steps, **({} if block is None else {"block": block}))
    if by not in CONFIDENCES:
        raise ValueError(f"by: expected one of {', '.join(CONFIDENCES)}; got {by!r}")
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold: expected a probability above 0, got {threshold}")
    walk = Walk(field, x, path, known, truncation, context, generator, tally)
    left, places = walk.masked("unmask"), torch.arange(walk.x.flatten(1).shape[1], device=walk.x.device)
    sizes = (x.mask if isinstance(x, Ragged) else torch.ones_like(left)).flatten(1).sum(1).clamp(min=1)
    width = max(1, len(places) if block is None else block)
    each = -(-steps // max(1, -(-len(places) // width)))
    for start in range(0, len(places), width):
        inside = ((places >= start) & (places < start + width)).reshape(walk.x.shape[1:])
        for step in range(each):
            masked = walk.x.eq(path.symbols) & left & inside
            if not masked.any():
                break
            share = walk.x.eq(path.symbols).flatten(1).sum(1).double() / sizes
            logits = walk.ask(path.time(1 - share.clamp(1e-7, 1)).float())
            before = walk.x
            walk.move(logits, masked.float(), torch.zeros((), device=walk.x.device))
            log_p = logits.float().log_softmax(-1)
            sure = CONFIDENCES[by](log_p, walk.x.clamp(max=path.symbols - 1))
            count = masked.flatten(1).sum(1, keepdim=True)
            kept = first_of(sure.masked_fill(~masked, -math.inf), -(-count // (each - step)))
            if threshold is not None:
                kept |= CONFIDENCES["probability"](log_p, walk.x.clamp(max=path.symbols - 1)) > math.log(threshold)
            walk.x = torch.where(masked & ~kept, before, walk.x)
    return walk.end()


def _margin(log_p: Tensor) -> Tensor:
    best = log_p.exp().topk(min(2, log_p.shape[-1])).values
    return best[..., 0] - best[..., -1]
