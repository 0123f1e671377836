"""Flows on a simplex: a network learns which symbol a noisy point comes from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..nets.context import drop_context
from ..nets.simplex_field import SimplexField
from ..ops.describe import require_data
from ..ops.draw import draw_uniform
from .nll import reduce

__all__ = ["SimplexMatching"]

KINDS = ("cross_entropy", "bound")


@dataclass(frozen=True)
class SimplexMatching:
    r"""Cross-entropy of the symbols that lie under the noise of a :class:`pyflowk.paths.SimplexPath`, or a bound on
    :math:`-\log p(x_1)` in nats.

    Called with a :class:`pyflowk.nets.SimplexField` and symbols (B, T). "cross_entropy" is that of each row at one
    time, even in [0, 1], in strata over the batch: what a field learns from. "bound" is, for the signal u of that time,

    .. math:: \sum_i u\, \dot u\, \lVert e_{x^i} - p_\theta(h_t)^i \rVert^2 - \sum_i \log p_\theta(x^i \mid h_1),

    whose mean over times bounds :math:`-\log p` of the diffusion that goes back by the mean :math:`p_\theta` and is
    read out at t = 1; with the true posterior of whole points it is the entropy of the data, and what embeddings of
    fewer numbers than symbols hide is paid for. For guidance a share ``dropout`` of rows is shown without its context.
    Raises ValueError or TypeError for an unknown kind or reduction, and for symbols out of range. Cost: one evaluation
    of the field, of a bound two. Kingma et al., 2021, arXiv:2107.00630 (the bound); Guo, Shamai, Verdu, 2005,
    arXiv:cs/0412108 (its tightness); Dieleman et al., 2022, arXiv:2211.15089 (cross-entropy).

    >>> import torch
    >>> from pyflowk.nets import SimplexField
    >>> from pyflowk.objectives import SimplexMatching
    >>> from pyflowk.paths import SimplexPath
    >>> SimplexMatching()(SimplexField(SimplexPath(4), width=8, depth=1), torch.tensor([[0, 3]]))  # 2 log 4
    tensor([2.7726], grad_fn=<SumBackward1>)
    """

    kind: str = "cross_entropy"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}; got {self.kind!r}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout: expected a share from 0 to 1, got {self.dropout}")

    def __call__(
        self,
        field: SimplexField,
        x: Tensor,
        context: Tensor | None = None,
        *,
        generator: Generator | None = None,
        reduction: str = "none",
    ) -> Tensor:
        if not isinstance(x, Tensor) or x.is_floating_point() or x.dtype == torch.bool:
            raise TypeError(f"expected symbols, integers (B, T), got {getattr(x, 'dtype', type(x).__name__)}")
        require_data("symbols", x)
        if x.dim() != 2:
            raise ValueError(f"expected symbols (B, T), got {tuple(x.shape)}")
        if x.is_cpu and x.numel() and not 0 <= int(x.min()) <= int(x.max()) < field.path.symbols:
            raise ValueError(f"expected symbols 0 to {field.path.symbols - 1}, got {x.min()} to {x.max()}")
        x, rows = x.long(), x.shape[0]
        t = draw_uniform((1,), generator, dtype=torch.float64, device=x.device)
        t = (t + torch.arange(rows, device=x.device) / max(rows, 1)) % 1
        if self.dropout and context is not None:
            dropped = draw_uniform((rows,), generator, dtype=torch.float32, device=x.device) < self.dropout
            context = drop_context(context, dropped, field.no_context())
        logits = field(t.float(), field.seen(x, t, generator), context).float()
        if self.kind == "cross_entropy":
            return reduce(F.cross_entropy(logits.mT, x, reduction="none").sum(1), reduction)
        p, (u, rate) = logits.softmax(-1), field.path.signal(t)
        off = 1 - 2 * p.gather(2, x.unsqueeze(2)).squeeze(2) + p.square().sum(2)
        last = torch.ones_like(t)
        told = field(last.float(), field.seen(x, last, generator), context).float()
        read = F.cross_entropy(told.mT, x, reduction="none").sum(1)
        return reduce((u * rate).to(off.dtype) * off.sum(1) + read, reduction)
