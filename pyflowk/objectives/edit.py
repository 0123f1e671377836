"""Edit flows: a network learns which edits make data of noise, and how many of them are still to come."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import require_numbers
from ..nets.context import drop_context
from ..nets.field import Field, as_field
from ..ops.describe import described, require_data, require_kind
from ..ops.draw import draw_uniform
from ..ops.modes import transformed
from ..ops.symbols import check_symbols
from ..paths import Aligner, EditPath, EditRates, Edits, EditSource, EditState, Times, empty, leftmost
from ..space import Ragged
from .nll import reduce

__all__ = ["EditMatching"]


@dataclass(frozen=True)
class EditMatching:
    r"""Matching of the rates of edits, the path's divergence from that of the model:

    .. math:: w \Big( \sum_e r_\theta(e \mid x_t) - \sum_i \lambda_i + \sum_i \lambda_i \log
        \frac{\Lambda_i}{r_\theta(e_i \mid x_t)} \Big)

    Called with a field of edits, whose answer to (t, x, context) is an :class:`pyflowk.paths.EditLogits`, and x, data,
    a :class:`pyflowk.space.Ragged` of symbols. Noise comes from ``source``, without any token if none is given, and is
    aligned with the data by ``alignment``; x_t is on the ``path``. r are the rates of all edits that the model might
    make, in the path's unit, and i goes over those that are to come, each of intensity :math:`\lambda_i`, 1 but with
    spread; :math:`\Lambda_i` is that of all edits that are the same one at the same place, as two equal tokens that are
    both missing there are. The best rates are averages over what there is to come, given x_t.

    Without ``times`` x_t is what there is just before an edit (:meth:`pyflowk.paths.EditPath.sample_edit`): the loss
    is then, on average over draws, a bound on :math:`-\log p(x_1 \mid x_0)` in nats, over all of the way and for any
    schedule. With times, a law of them, the weight is the path's unit at each, at most ``clamp``, as published: what is
    learned is the same, in another order. A share ``dropout`` of the rows is shown without its context. The result is
    (B,), or its mean or sum.

    Raises TypeError for events that are not of variable length, ValueError for symbols that the field does not have,
    for an unknown reduction, and for spread without times. Cost: one evaluation of the field, and that of the
    alignment. Havasi et al., 2025, arXiv:2506.09018; weights: Billera et al., 2025, arXiv:2511.16599.

    >>> import torch
    >>> from pyflowk.objectives import EditMatching
    >>> from pyflowk.paths import EditLogits
    >>> from pyflowk.space import Ragged
    >>> def even(t, x):
    ...     rows, longest = x.values.shape
    ...     return EditLogits(torch.zeros(rows, 1 + longest, 1), torch.zeros(rows, 1 + longest, 5))
    >>> EditMatching()(even, Ragged.of([torch.tensor([4, 0, 2]), torch.tensor([1])])).shape
    torch.Size([2])
    """

    path: EditPath = field(default_factory=EditPath)
    source: EditSource = empty
    alignment: Aligner = leftmost
    times: Times | None = None
    clamp: float = math.inf
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_kind("path", self.path, EditPath, "a path of edits, pyflowk.paths.EditPath()")
        require_kind("source", self.source, Callable, "a function of the data, such as pyflowk.paths.empty")
        require_kind("alignment", self.alignment, Callable, "a function that aligns, such as pyflowk.paths.closest")
        if self.times is not None:
            require_kind("times", self.times, Callable, "a law of times, such as pyflowk.paths.UniformTimes(), or None")
        elif self.path.spread:
            raise ValueError("times: expected a law of them on a path with spread, got None")
        if not self.clamp > 0:
            raise ValueError(f"clamp: expected a number above 0, got {self.clamp}")
        require_numbers("EditMatching", dropout=self.dropout)
        if self.dropout > 1:
            raise ValueError(f"dropout: expected a share from 0 to 1, got {self.dropout}")

    def __call__(
        self,
        net: Field | Callable[..., Any],
        x: Ragged,
        context: Any = None,
        *,
        generator: torch.Generator | None = None,
        reduction: str = "none",
    ) -> Tensor:
        _check(x)
        aligned = self.alignment(self.source(x, generator), x, generator)
        if self.times is None:
            state = self.path.sample_edit(aligned, generator)
        else:
            t = self.times(len(x), generator, dtype=torch.float64, device=x.values.device)
            state = self.path.sample(aligned, t, generator)
        predicting = as_field(net)
        if self.dropout and context is not None:
            dropped = draw_uniform((len(x),), generator, dtype=torch.float32, device=x.values.device) < self.dropout
            context = drop_context(context, dropped, predicting.no_context())
        told: Any = predicting(state.t.float(), state.x, context)
        return reduce(_divergence(told, state, self.clamp), reduction)


def _divergence(told: Any, state: EditState, clamp: float) -> Tensor:
    """The loss (B,) of what a field told of a state."""
    rates = EditRates(told, state.x, state.left)
    check_symbols("EditMatching", "x", state.edits.token, told.insert.shape[2])
    all_rates = rates.log_rates.exp().sum((1, 2))
    wanted = state.intensity.to(all_rates)
    same = _of_same(state.edits, state.intensity, told.insert.shape[2]).to(wanted).maximum(wanted)
    logs = (same.log().where(wanted > 0, 0.0) - rates.log_of(state.edits)) * wanted
    return state.weight.clamp(max=clamp).to(all_rates) * (all_rates - wanted.sum(1) + logs.sum(1))


def _of_same(edits: Edits, wanted: Tensor, symbols: int) -> Tensor:
    """The intensity of all edits of a row that are the same as each, (B, Z)."""
    code = (edits.position * 3 + edits.kind) * symbols + edits.token
    ordered, order = code.sort(1)
    below = F.pad(wanted.gather(1, order).cumsum(1), (1, 0))
    first, last = (torch.searchsorted(ordered, code, right=right) for right in (False, True))
    return below.gather(1, last) - below.gather(1, first)


def _check(x: object) -> None:
    if not isinstance(x, Ragged):
        raise TypeError(f"x: expected a Ragged, as sequences of edits have lengths, got {described(x)}")
    if x.values.dim() != 2 or x.values.is_floating_point():
        raise TypeError(f"x: expected symbols (B, L) of an integer dtype, got {described(x.values)}")
    require_data("x", x.values)
    if x.values.is_cpu and x.values.numel() and not transformed():
        least = int(x.values.where(x.mask, 0).min())
        if least < 0:  # it would be taken for a blank
            raise ValueError(f"x: expected symbols from 0 on, got {least}")
