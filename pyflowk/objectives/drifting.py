"""Drifting: what a network makes of noise in one evaluation follows forces towards the data and apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .._checks import require_numbers
from ..nets.field import Field, as_field
from ..ops.divergence import as_slope
from ..ops.draw import draw_integers, draw_keys
from ..ops.drift import as_temperatures, drift
from ..ops.dtypes import state_dtype
from ..ops.path_sample import noise_of
from ..shapes import check_labels
from .matching import check_batch
from .nll import reduce

__all__ = ["Drifting"]


@dataclass(frozen=True)
class Drifting:
    r"""Drifting: :math:`|y - \mathrm{sg}(y + s\, \textstyle\sum_\tau V_\tau / \|V_\tau\|)|^2 / (s^2 D)`, sg held fixed.

    Called with a field, or a function of (t, z) or (t, z, context), and x (B, \*event) of D elements, data: noise z,
    standard normal, goes to :math:`y = z + f(0, z, c)`, one Euler step, and V are the forces on y of
    :func:`pyflowk.ops.drift` at ``temperatures``, in units of the mean distance s, each over its root mean square.
    Labels (B,) as context say who meets whom: forces are among equal labels, of which y are ``made`` for those of x, or
    for others, (B,). ``more``, rows and their labels, are data that only attract. With ``guidance`` g the n events of a
    label are also driven away from g (n - 1) that are drawn from data of any label: they settle where :math:`(q_c + g
    p) / (1 + g) = p_c`, further from what is not theirs. The result is (B,), its mean or its sum; it tells nothing of
    how good y are, as forces of unit size stay what they are: :func:`pyflowk.metrics.energy_score` does.

    Raises ValueError for an unknown reduction, for a guidance without labels, and where no label is made twice, when
    there is nothing to keep apart and, but by "sinkhorn", nothing to learn; TypeError for a context that is no label.
    Cost: one evaluation of the field and the forces. Deng et al., 2026, arXiv:2602.04770; "sinkhorn": He et al., 2026,
    arXiv:2603.12366.

    >>> import torch
    >>> from pyflowk.objectives import Drifting
    >>> Drifting()(lambda t, z: torch.zeros_like(z), 3 + torch.randn(8, 2)).shape
    torch.Size([8])
    """

    temperatures: tuple[float, ...] = (0.02, 0.05, 0.2)
    normalise: str = "double"
    kernel: str = "laplace"
    guidance: float = 0.0

    def __post_init__(self) -> None:
        require_numbers("Drifting", guidance=self.guidance)
        object.__setattr__(self, "temperatures", as_temperatures(self.temperatures))
        drift(torch.zeros(1, 1), torch.zeros(1, 1), self.temperatures, self.normalise, self.kernel)  # an error, if any
        if not self.temperatures:
            raise ValueError("temperatures: expected at least one, got none")

    def __call__(
        self,
        net: Field | Callable[..., Tensor],
        x: Tensor,
        context: Tensor | None = None,
        *,
        more: tuple[Tensor, Tensor | None] | None = None,
        made: Tensor | None = None,
        generator: Generator | None = None,
        reduction: str = "none",
    ) -> Tensor:
        check_batch(x, context)
        z = noise_of(draw_keys(len(x), generator, device=x.device), x.to(state_dtype(x)))
        own = context if made is None else made
        y = z + as_slope(as_field(net)(0.0, z, own), z)
        rows, data, labels = y.flatten(1), x.to(y.dtype).flatten(1), context
        if self.guidance and context is None:
            raise ValueError(f"guidance: expected 0 without labels, got {self.guidance}")
        if more is not None:
            data = torch.cat([data, more[0].to(data).flatten(1)])
            labels = None if context is None or more[1] is None else torch.cat([context, more[1].to(context)])
        goals, units = rows.detach().clone(), torch.ones_like(rows[:, :1])
        for mine, theirs in _groups(own, labels, len(rows), len(data), self.normalise == "sinkhorn"):
            own, others = goals[mine], data[:0]
            if count := round(self.guidance * (len(own) - 1)):
                others = data[draw_integers(0, len(data), (count,), generator, device=data.device)]
            found = drift(torch.cat((own, others)), data[theirs], self.temperatures, self.normalise, self.kernel)
            forces, unit = found.forces[:, : len(own)], found.scale
            sizes = forces.square().mean((1, 2), keepdim=True).sqrt()
            unit = unit.clamp_min(torch.finfo(unit.dtype).tiny)
            goals[mine] += unit * (forces / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)).sum(0)
            units[mine] = unit
        return reduce(((rows - goals) / units).square().mean(1), reduction)


def _groups(
    mine: Tensor | None, theirs: Tensor | None, rows: int, others: int, alone: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of one label on both sides, all of them without labels; ``alone`` a row of a label may be."""
    if mine is None or theirs is None:
        if mine is not theirs:
            raise ValueError("more: expected labels of its rows, as there are of x, or neither; got one of them")
        yield slice(rows), slice(others)  # type: ignore[misc]
        return
    mine, theirs = check_labels(mine), check_labels(theirs)
    labels = mine.unique()
    if len(labels) == len(mine) > 1 and not alone:
        raise ValueError(
            f"labels: expected several rows of some label, to be kept apart; got {len(mine)} of one row each"
        )
    for label in labels:
        yield mine == label, theirs == label
