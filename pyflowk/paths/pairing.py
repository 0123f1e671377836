"""Which noise goes with which event of a batch: functions (x0, x1, context, generator) -> (x0, x1, context)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, distributed

from .._checks import require_counts, require_numbers
from ..ops.assignment import assignment_of_points
from ..ops.describe import require_kind
from ..ops.draw import draw_integers
from ..ops.dtypes import state_dtype
from ..ops.modes import transformed

__all__ = [
    "CONDITIONS",
    "OptimalTransport",
    "Pairing",
    "condition_kind",
    "coordinates_beside",
    "equal_rows",
    "independent",
]

CONDITIONS = ("auto", "labels", "numbers", "ignore")
"""What a pairing may take a context for."""

_DRAWS = ("permutation", "pairs")


class Pairing(Protocol):
    r"""Whatever pairs the rows of x0 and x1 (B, \*event), by permuting or drawing them; a context goes with its x1."""

    def __call__(
        self, x0: Tensor, x1: Tensor, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]: ...


def independent(
    x0: Tensor, x1: Tensor, context: Tensor | None = None, generator: Generator | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    r"""Pair the rows as they come: noise that knows nothing of the data, nor of their context.

    x0 and x1 are (B, \*event), the context has B rows. Cost: none.

    >>> import torch
    >>> from pyflowk.paths import independent
    >>> independent(torch.zeros(1), torch.ones(1))
    (tensor([0.]), tensor([1.]), None)
    """
    return x0, x1, context


@dataclass(frozen=True)
class OptimalTransport:
    r"""The pairing of least total squared distance within a batch: exact optimal transport, a permutation of the noise.

    .. math:: \min_\pi \sum_j |x_0^{\pi(j)} - x_1^j|^2 + \lambda\, |c_{\pi(j)} - c_j|^2

    Events stay where they are, with their context; ``draw`` says what becomes of the pairs: each comes once
    ("permutation"), or B are drawn with replacement ("pairs"), which leaves about a third of the events out.

    Noise must not tell of the context, or samples are biased: what is drawn in sampling is not what was trained on. So
    ``condition`` says what a context is: "labels" are paired each among themselves; "numbers" are those of c, and
    :math:`\lambda` is such that two contexts of a batch differ on average by ``weight`` times what noise and data do
    (the larger, the less bias, and the less straight the ways); "auto" takes integers for labels and real numbers for
    numbers; "ignore", which is warned of, leaves the context out. ``size`` is how many rows are paired at a time, all
    of a batch if none is given; with ``gather`` the batches of all processes are paired as one, and each gets the
    noise of its own events, else each pairs its own.

    Raises ValueError for unknown names, NaN and infinity, which are no distance from anything, a context of another
    number of rows, and batches of processes that differ in shape. Cost: :func:`pyflowk.ops.assignment_of_points`, for
    each label. Tong et al., 2024, arXiv:2302.00482; Pooladian et al., 2023, arXiv:2304.14772; conditions: Cheng and
    Schwing, 2025, arXiv:2503.10636.

    >>> import torch
    >>> from pyflowk.paths import OptimalTransport
    >>> OptimalTransport()(torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [-5.0]]))[0].flatten()
    tensor([1., 0.])
    """

    condition: str = "auto"
    weight: float = 100.0
    draw: str = "permutation"
    size: int | None = None
    gather: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("condition", self.condition, CONDITIONS), ("draw", self.draw, _DRAWS)):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}; got {value!r}")
        require_numbers("OptimalTransport", weight=self.weight)
        require_counts("OptimalTransport", size=1 if self.size is None else self.size)

    @torch.no_grad()
    def order(self, x0: Tensor, x1: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Which row of x0 goes with each of x1, (B,) int64; both (B, \*event) are on one device."""
        require_kind("x0", x0, Tensor, "a tensor (B, *event)")
        require_kind("x1", x1, Tensor, "a tensor (B, *event)")
        if x0.shape != x1.shape or x1.dim() == 0:
            raise ValueError(
                f"expected x0 and x1 of one shape (B, *event), got {tuple(x0.shape)} and {tuple(x1.shape)}"
            )
        dtype = torch.promote_types(state_dtype(x0), state_dtype(x1))
        x0, x1 = (x.to(dtype).flatten(1) if x.dim() > 1 else x.to(dtype)[:, None] for x in (x0, x1))
        kind = condition_kind(type(self).__name__, self.condition, context, x1.shape[0])
        for name, x in (("x0", x0), ("x1", x1)):
            _require_finite(name, x)
        if context is None or kind == "ignore":
            return self._solve(x0, x1)
        if kind == "numbers":
            beside = coordinates_beside(x0, x1, context.to(dtype).flatten(1), self.weight)
            return self._solve(torch.cat((x0, beside), 1), torch.cat((x1, beside), 1))
        order = torch.empty(x1.shape[0], dtype=torch.int64, device=x1.device)
        for rows in equal_rows(context):
            order[rows] = rows[self._solve(x0[rows], x1[rows])]
        return order

    def __call__(
        self, x0: Tensor, x1: Tensor, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.gather and distributed.is_available() and distributed.is_initialized():
            everyone, rows = _gathered(x0), x1.shape[0]
            order = self.order(everyone, _gathered(x1), None if context is None else _gathered(context))
            own = distributed.get_rank() * rows
            x0 = everyone[order[own : own + rows]]
        else:
            x0 = x0[self.order(x0, x1, context)]
        if self.draw == "permutation":
            return x0, x1, context
        drawn = draw_integers(0, max(x1.shape[0], 1), x1.shape[:1], generator, device=x1.device)
        return x0[drawn], x1[drawn], None if context is None else context[drawn]

    def _solve(self, x0: Tensor, x1: Tensor) -> Tensor:
        """The order of (B, D), `size` rows at a time."""
        rows = x1.shape[0]
        size = rows if self.size is None else min(self.size, rows)
        starts = torch.arange(rows, device=x1.device) // max(size, 1) * size
        whole = rows // max(size, 1) * size
        found = [
            assignment_of_points(*(x[part].unflatten(0, (-1, each)) for x in (x1, x0))).columns.flatten()
            for part, each in ((slice(whole), size), (slice(whole, None), rows - whole))
            if each > 0
        ]
        return torch.cat(found) + starts if found else starts


def equal_rows(context: Tensor) -> list[Tensor]:
    """The places of the rows of a context that are alike: for each kind of them, in rising order, int64.

    >>> import torch
    >>> from pyflowk.paths.pairing import equal_rows
    >>> equal_rows(torch.tensor([3, 1, 3]))
    [tensor([1]), tensor([0, 2])]
    """
    kind, counts = torch.unique(context, dim=0, return_inverse=True, return_counts=True)[1:]
    return list(kind.argsort(stable=True).split(counts.tolist()))


def condition_kind(owner: str, condition: str, context: Tensor | None, rows: int) -> str:
    """What a context is taken for, "labels", "numbers" or "ignore", which is warned of unless there is none."""
    if context is None:
        return "ignore"
    if context.dim() == 0 or context.shape[0] != rows:
        raise ValueError(f"expected a context of {rows} rows, got {tuple(context.shape)}")
    if condition == "ignore":
        warnings.warn(
            f"{owner}(condition='ignore') pairs noise with data whatever the context: samples given a context will be "
            "biased; 'labels', 'numbers' or 'auto' are not",
            stacklevel=5,
        )
    if condition == "auto":
        return "numbers" if context.is_floating_point() else "labels"
    return condition


def coordinates_beside(x0: Tensor, x1: Tensor, context: Tensor, weight: float) -> Tensor:
    """Coordinates of the contexts (B, C), scaled to tell as much of two rows as `weight` says."""
    spread = 2 * (context - context.mean(0)).square().sum(1).mean()
    far = (x0 - x1.mean(0)).square().sum(1).mean() + (x1 - x1.mean(0)).square().sum(1).mean()
    return context * (weight * far / spread).sqrt().where(spread > 0, 0.0)


def _require_finite(name: str, x: Tensor) -> None:
    """Raise for rows (B, D) that are not, naming one, on the CPU: elsewhere looking would stall the device."""
    if x.is_cpu and not transformed() and not bool((finite := x.isfinite().all(1)).all()):
        row = int(finite.logical_not().nonzero()[0])
        raise ValueError(f"OptimalTransport: expected finite numbers, got NaN or infinity in row {row} of {name}")


def _gathered(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks."""
    shapes: list[object] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shapes, (tuple(x.shape), x.dtype))
    if len({*shapes}) > 1:
        raise ValueError(f"gather: expected batches of one shape and dtype in all processes, got {shapes}")
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in shapes]
    distributed.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)
