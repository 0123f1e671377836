"""Discrete flow matching: a network learns what symbols of data lie under noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .._checks import require_counts
from ..nets.context import drop_context
from ..nets.field import Field, as_field
from ..ops.describe import described, require_kind
from ..ops.discrete_loss import discrete_loss
from ..ops.draw import draw_uniform
from ..paths import MixturePath
from ..space import Paired, Ragged
from .nll import reduce

__all__ = ["DiscreteMatching"]

KINDS = ("elbo", "cross_entropy")


@dataclass(frozen=True)
class DiscreteMatching:
    r"""A bound on :math:`-\log p(x_1)` in nats, or cross-entropy, of what a field says of symbols under noise.

    Called with a field that answers (t, x, context) by logits (B, \*event, K) of the data, and with data (B, \*event),
    a :class:`pyflowk.space.Ragged` (what lies beyond its rows is neither seen nor paid for), or
    :class:`pyflowk.space.Paired` noise and data that belong together, for which the bound is on :math:`-\log p(x_1 \mid
    x_0)`. With p the softmax of the logits each symbol costs, at a time t of a ``path``,

    .. math:: \frac{\kappa'_t}{1 - \kappa_t} \left[ \delta - p(x_t) - (1 - \delta) \log p(x_1) \right], \quad
        \delta = 1[x_t = x_1],

    which for masks is the cross-entropy of what they hide: symbols that are no longer masked are carried over. Summed
    over symbols and averaged over times that is "elbo". Times are drawn such that :math:`\kappa_t` is even in [0, 1),
    in strata over the batch, which makes the bound the same for every schedule; of masks their number m is, 1 to N,
    with the weight N / m, at a time that such a number may come at: nothing is divided by 0, and the variance is
    finite. "cross_entropy" leaves the weight out: it has the same best field, and is no bound. With the best field the
    bound is the entropy of the data for masks; for other noise it is above that, by how far the law of what happens on
    the way is from that of independent symbols. With ``block`` rows (B, T) of masks are bounded block by block of so
    many symbols, each given the data before it, of which no symbol is masked: the sum of these bounds. The field is
    called with :class:`pyflowk.space.Paired` masked and true rows, and hears no time. For guidance a share ``dropout``
    of the rows, drawn anew each time, is shown without its context to a field that can do without. The result is (B,),
    or its mean or sum.

    Raises ValueError or TypeError for an unknown kind or reduction, symbols out of range, a mask among the data, logits
    of another shape, and for blocks of what are no rows of masks that they divide. Cost: one evaluation of the field,
    of blocks at twice the places; the gradient takes the place of the logits of one that does not ask for them again,
    such as :class:`pyflowk.nets.TokenTransformer`. Gat et al., 2024, arXiv:2407.15595; Shaul et al., 2025,
    arXiv:2412.03487; masks: Sahoo et al., 2024, arXiv:2406.07524; Ou et al., 2024, arXiv:2406.03736; blocks: Arriola et
    al., 2025, arXiv:2503.09573.

    >>> import torch
    >>> from pyflowk.objectives import DiscreteMatching
    >>> from pyflowk.paths import MixturePath
    >>> loss = DiscreteMatching(MixturePath(symbols=2))
    >>> loss(lambda t, x: torch.zeros(*x.shape, 2), torch.tensor([[0, 1, 1]]))  # 3 log 2
    tensor([2.0794])
    """

    path: MixturePath
    kind: str = "elbo"
    dropout: float = 0.0
    block: int | None = None

    def __post_init__(self) -> None:
        require_kind("path", self.path, MixturePath, "a MixturePath, such as pyflowk.paths.MixturePath(symbols=5)")
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}; got {self.kind!r}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout: expected a share from 0 to 1, got {self.dropout}")
        if self.block is not None:
            require_counts("DiscreteMatching", block=self.block)
            if self.path.mask is None:
                raise ValueError(f"block: expected masks for noise, got {self.path}")

    def __call__(
        self,
        net: Field | Callable[..., Tensor],
        x: Tensor | Ragged | Paired,
        context: Tensor | None = None,
        *,
        generator: Generator | None = None,
        reduction: str = "none",
    ) -> Tensor:
        x0, events = (x.x0, x.x1) if isinstance(x, Paired) else (None, x)
        lengths = events.lengths if isinstance(events, Ragged) else None
        seen = events.mask if isinstance(events, Ragged) else None
        x1 = events.values.where(events.mask, 0) if isinstance(events, Ragged) else events
        self.path.check(x1)
        x1 = x1.long()
        if self.block is not None and (isinstance(x, (Ragged, Paired)) or x1.dim() != 2 or x1.shape[1] % self.block):
            raise ValueError(
                f"block: expected rows (B, T) of one length, a multiple of {self.block}, got {described(x)}"
            )
        noisy, t, weight = self._noised(x1, seen, x0 is None, generator)
        x_t = torch.where(noisy, self.path.noise(x1, generator) if x0 is None else x0.long(), x1)
        predicting = as_field(net)
        if self.dropout and context is not None:
            dropped = draw_uniform((x1.shape[0],), generator, dtype=torch.float32, device=x1.device) < self.dropout
            context = drop_context(context, dropped, predicting.no_context())
        shown: Any = x_t if lengths is None else Ragged(x_t, lengths)
        logits = predicting(t, shown if self.block is None else Paired(x_t, x1), context)
        if logits.shape != (*x1.shape, self.path.symbols):
            raise ValueError(
                f"expected logits {(*x1.shape, self.path.symbols)} of the field, got {tuple(logits.shape)}"
            )
        paid = x1 if seen is None else x1.where(seen, -1)
        mask = self.path.mask if x0 is None else None
        in_place = not predicting.needs_answer
        costs = discrete_loss(logits, x_t, paid, kind=self.kind, mask=mask, in_place=in_place).flatten(1)
        costs = costs.unflatten(1, (-1, self.block)).sum(2) if self.block and len(costs) else costs.sum(1, keepdim=True)
        return reduce((costs if self.kind == "cross_entropy" else weight * costs).sum(1), reduction)

    def _noised(
        self, x1: Tensor, seen: Tensor | None, drawn: bool, generator: Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Which symbols are noise, the times (B,), and the weights of what they cost, (B, 1) or of each block."""
        rows, device = x1.shape[0], x1.device
        blocks = 1 if self.block is None else x1.shape[1] // self.block
        share = draw_uniform((1,), generator, dtype=torch.float64, device=device)
        share = (share + torch.arange(blocks * rows, device=device) / max(blocks * rows, 1)) % 1
        chance = draw_uniform(x1.shape, generator, dtype=torch.float64, device=device).flatten(1)
        if self.path.mask is None or not drawn:
            noisy = (chance >= share.unsqueeze(1)).reshape(x1.shape)
            return noisy, self.path.time(share).float(), (1 / (1 - share)).float().unsqueeze(1)
        if self.block is not None:  # block after block, so that the strata of a row's lie far apart
            chance = chance.unflatten(1, (blocks, self.block)).transpose(0, 1).flatten(0, 1)
        # as much is masked at a time at which m of N symbols are as the m-th smallest of N even numbers says
        chance = chance if seen is None else chance.masked_fill(~seen.flatten(1), 2.0)
        size = torch.full_like(share, chance.shape[1]) if seen is None else seen.flatten(1).sum(1).to(share)
        count = ((size * share).floor() + 1).minimum(size.clamp(min=1))
        ordered = F.pad(chance.sort(1).values, (0, 1), value=2.0)  # there may be no symbols at all
        least = ordered.gather(1, count.long().unsqueeze(1) - 1)
        noisy = (chance <= least) & (chance < 2)
        kappa, weight = (1 - least.squeeze(1)).clamp(0, 1), (size / count).float()
        if self.block is not None:
            noisy = noisy.unflatten(0, (blocks, rows)).transpose(0, 1)
            return noisy.reshape(x1.shape), share.new_zeros(()).float(), weight.reshape(blocks, rows).T
        return noisy.reshape(x1.shape), self.path.time(kappa).float(), weight.unsqueeze(1)
