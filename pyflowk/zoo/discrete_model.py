"""A system of symbols that learns by discrete flow matching, and how it draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import torch
from torch import Generator, Tensor, nn

from ..nets import Behind, Field, Finished, TokenTransformer
from ..objectives import DiscreteMatching
from ..ops.describe import require_data
from ..ops.draw import draw_uniform
from ..ops.modes import transformed
from ..paths.mixture import CORRECTORS
from ..shapes import expand_context
from ..solvers import (
    CONFIDENCES,
    EulerStep,
    GibbsStep,
    Guided,
    MixtureStep,
    Tally,
    Truncation,
    first_hitting,
    jump_flow,
    uniform_grid,
    unmask,
)
from ..space import Events, Ragged, Space, check_events
from ..transforms import check_levels
from .blocks import beginning
from .model import Ability, GenerativeModel, SamplingOptions
from .option import WIDTH, Option, one_of

METHODS = ("mixture", "euler", "first_hitting", "unmask")
HEARD = {
    "psi": ("mixture",), "remask": ("mixture",), "gibbs": ("mixture", "euler"), "corrector": ("euler",),
    "corrector_kind": ("euler",), "confidence": ("unmask",), "block": ("unmask",), "threshold": ("unmask",),
}  # fmt: skip
"""The methods that an option is for, where it is not for all."""


@dataclass(frozen=True)
class DiscreteSampling(SamplingOptions):
    """How symbols are drawn; ValueError for an option that the method does not hear of."""

    method: Annotated[
        str, one_of("mixture and euler in steps; first_hitting one by one; unmask: surest first", METHODS)
    ] = "mixture"
    steps: Annotated[
        int, Option("calls of the network, in each block; first_hitting takes one a symbol", 1, 1 << 16)
    ] = 64
    temperature: Annotated[float, Option("of the law of each symbol: 0 draws the likeliest", 0)] = 1.0
    top_k: Annotated[int, Option("draw among the likeliest so many; 0: all", 0, WIDTH)] = 0
    top_p: Annotated[float, Option("draw among the fewest that have this share", 0, 1)] = 1.0
    psi: Annotated[
        float, Option("share of plain steps of mixture: below 1 all symbols are laid under noise again", 0, 1)
    ] = 1.0
    remask: Annotated[float, Option("chance, at most, to mask a symbol again in a step of mixture", 0, 1)] = 0.0
    corrector: Annotated[float, Option("how much further euler goes, and as much back", least=0)] = 0.0
    corrector_kind: Annotated[str, one_of("how it goes back: see paths.MixturePath.rates", CORRECTORS)] = "backward"
    gibbs: Annotated[int, Option("symbols drawn anew, given all others, after a step; for uniform noise", 0, WIDTH)] = 0
    confidence: Annotated[str, one_of("how unmask tells what is sure", CONFIDENCES)] = "probability"
    block: Annotated[int | None, Option("unmask so many symbols at a time, from left to right", 1, WIDTH)] = None
    threshold: Annotated[float | None, Option("unmask keeps all that are likelier, however many", above=0, below=1)] = (
        None
    )
    guidance: Annotated[float, Option("how much further than the context: 0 not at all, -1 samples without it")] = 0.0
    prefix: Annotated[str | None, Option("what each text begins with")] = None

    def __post_init__(self) -> None:
        for name, methods in HEARD.items():
            if getattr(self, name) != getattr(type(self), name) and self.method not in methods:
                value = getattr(self, name)
                raise ValueError(f"{name}: is for {' and '.join(methods)}; got {value!r} with {self.method}")
        MixtureStep(self.psi, self.remask)


class DiscreteModel(GenerativeModel):
    r"""Symbols, or levels as if they had no order, learned by a :class:`pyflowk.objectives.DiscreteMatching`.

    Events are flattened to rows (B, T); those of several lengths have a length that is drawn first, from a categorical
    distribution that is learned along. The loss is a bound on :math:`-\log p` in nats, if the objective's is, and
    ``log_prob`` is minus an estimate of that bound by one draw of noise. With dropout every context may be None.
    ``tally`` tells of the last samples what was asked and how many rates were too large for the steps.

    >>> import torch
    >>> from pyflowk import zoo
    >>> from pyflowk.space import Space
    >>> model = zoo.discrete_flow(Space((6,), symbols=3), width=8, depth=1)
    >>> y, known = torch.tensor([[2, 1, 0, 0, 0, 0]]), torch.tensor([[True, True, False, False, False, True]])
    >>> model.complete(y, known, steps=3)[:, [0, 1, 5]]
    tensor([[2, 1, 0]])
    """

    Sampling = DiscreteSampling

    def __init__(self, space: Space, net: Field, objective: DiscreteMatching) -> None:
        super().__init__(space)
        if objective.path.symbols != (space.levels or space.symbols):
            raise ValueError(f"expected a path of the symbols of {space}, got {objective.path}")
        self.net, self.objective, self.tally = net, objective, Tally()
        self.lengths = nn.Parameter(torch.zeros(space.shape[0] + 1)) if space.variable else None

    @property
    def abilities(self) -> frozenset[Ability]:
        return frozenset({Ability.LIKELIHOOD})

    @property
    def loss_unit(self) -> str | None:
        return "nats" if self.objective.kind == "elbo" or not self.training else None

    def loss(self, x: Any, context: Any = None, generator: Generator | None = None) -> Tensor:
        return self._paid(self.objective if self.training else self._bound, x, context, generator)

    def log_prob(self, x: Any, context: Any = None, generator: Generator | None = None) -> Tensor:
        return -self._paid(self._bound, x, context, generator)

    def sample_and_log_prob(
        self, n: int | Sequence[int], context: Any = None, generator: Generator | None = None, **options: Any
    ) -> tuple[Any, Tensor]:
        """Samples, and what :meth:`log_prob` says of them: of the model, whatever the options."""
        x = self.sample(n, context, generator, **options)
        if self.space.variable:
            return x, self.log_prob(x, context, generator)
        shape = x.shape[: x.dim() - len(self.space.shape)]
        return x, self.log_prob(x.reshape(-1, *self.space.shape), context, generator).reshape(shape)

    def complete(
        self, y: Tensor, known: Tensor, context: Any = None, generator: Generator | None = None, **options: Any
    ) -> Tensor:
        r"""Events that are y, (B, \*shape), where ``known`` is True, and drawn elsewhere: behind a prefix, or in a gap.

        What y is elsewhere is not looked at; ``options`` are those of :meth:`sample`. Raises ValueError for known
        events that are no symbols of the space. A model of blocks hears of what is known behind a block only when it
        comes there.
        """
        chosen: Any = self.chosen(options)
        if self.space.variable:
            raise ValueError(f"complete: expected events of one length, got {self.space}")
        for name, part in (("y", y), ("known", known)):
            check_events(part, self.space.shape, name)
            require_data(name, part)
        if known.dtype != torch.bool:
            raise TypeError(f"known: expected True and False, got {known.dtype}")
        told = y[known.expand(len(y), *known.shape[1:])]
        if told.is_cpu and not transformed():
            if told.isnan().any():
                raise ValueError("y, where it is known, expects symbols, got NaN")
            check_levels(told, self.objective.path.symbols, "y, where it is known,", self.space.kind)
        fixed = known.flatten(1).expand(len(y), -1)
        context = self.check_context(context, len(y))
        return self._leave(self._drawn(y.flatten(1).long(), fixed, context, generator, chosen))

    def chosen(self, options: dict[str, Any]) -> SamplingOptions:
        found: Any = super().chosen(options)
        if found.method in ("first_hitting", "unmask") and self.objective.path.mask is None:
            raise ValueError(f"method: expected mixture or euler where noise is uniform, got {found.method}")
        if (found.gibbs and self.objective.path.mask is not None) or (
            found.remask and self.objective.path.mask is None
        ):
            raise ValueError("expected gibbs where noise is uniform, and remask where it is a mask; got the other")
        if found.prefix:
            beginning(self.space, found.prefix)
        self._field(found)  # an error, before a run has learned in vain, if it cannot do without a context
        return found

    def check_context(self, context: Any, rows: int) -> Any:
        return None if context is None and self.objective.dropout else super().check_context(context, rows)

    # ---- inside ------------------------------------------------------------------------------------------------------

    @property
    def _bound(self) -> DiscreteMatching:
        return DiscreteMatching(self.objective.path, block=self.objective.block)

    def _paid(self, objective: DiscreteMatching, x: Any, context: Any, generator: Generator | None) -> Tensor:
        """The loss of events, and of their lengths; of levels that are NaN it is NaN."""
        context = self.check_batch(x, context)
        rows, strange = self._enter(x)
        found = objective(self.net, rows, context, generator=generator)
        if strange is not None:
            found = found.masked_fill(strange, math.nan)
        if self.lengths is None or not isinstance(rows, Ragged):
            return found
        return found - self.lengths.log_softmax(0)[rows.lengths.long()]

    def _enter(self, x: Events) -> tuple[Events, Tensor | None]:
        """Events as rows of symbols; of levels also which rows have NaN."""
        if isinstance(x, Ragged) or self.space.levels is None:
            return x if isinstance(x, Ragged) else x.flatten(1), None
        rows = x.flatten(1)
        nan = rows.isnan()
        if x.is_cpu and not transformed():
            check_levels(rows[~nan], self.space.levels, "x")
        return rows.nan_to_num().long(), nan.any(1)

    def _leave(self, ids: Tensor) -> Tensor:
        x = ids.reshape(-1, *self.space.shape)
        return x.float() if self.space.levels is not None else x

    def _field(self, chosen: Any) -> Field:
        return Guided(self.net, chosen.guidance) if chosen.guidance else self.net

    def _sample(self, rows: int, context: Any, generator: Generator | None, chosen: Any) -> Any:
        weights = chain(self.parameters(), self.buffers())  # of a frozen model they are buffers
        device, width = next(weights).device, self.space.dims
        known = torch.zeros(rows, width, dtype=torch.bool, device=device)
        y = torch.zeros(rows, width, dtype=torch.int64, device=device)
        if chosen.prefix:
            prefix = beginning(self.space, chosen.prefix).to(device)
            known[:, : len(prefix)], y[:, : len(prefix)] = True, prefix
        if self.lengths is None:
            return self._leave(self._drawn(y, known, context, generator, chosen))
        law = self.lengths.detach().double().softmax(0).cumsum(0)
        u = draw_uniform((rows,), generator, dtype=torch.float64, device=device)
        lengths = torch.searchsorted(law, u, right=True).clamp(max=width).maximum(known.sum(1))
        return self._drawn(y, known, context, generator, chosen, lengths)

    def _drawn(
        self, y: Tensor, known: Tensor, context: Any, generator: Generator | None, chosen: Any,
        lengths: Tensor | None = None,
    ) -> Any:  # fmt: skip
        """Rows that are y where they are known, by the method that is chosen."""
        self.tally = Tally()
        x: Any = torch.where(known, y, self.objective.path.noise(y, generator))
        if self.objective.block is not None:
            return self._by_blocks(x, known, context, generator, chosen)
        return self._walked(
            self._field(chosen), x if lengths is None else Ragged(x, lengths), known, context, generator, chosen
        )

    def _by_blocks(self, x: Tensor, known: Tensor, context: Any, generator: Generator | None, chosen: Any) -> Tensor:
        """One block after the other; keys and values of those that are finished are kept, but by guidance."""
        assert isinstance(self.net, TokenTransformer) and self.objective.block is not None
        size, field, guided = self.objective.block, self._field(chosen), bool(chosen.guidance)
        finished = Finished(x[:, :0], expand_context(context, len(x)))
        for block, fixed in zip(x.split(size, 1), known.split(size, 1), strict=True):
            drawn = self._walked(Behind(field) if guided else field, block, fixed, finished, generator, chosen)
            finished = finished.followed_by(drawn) if guided else self.net.read(drawn, finished)
        return finished.symbols

    def _walked(
        self, field: Field, x: Any, known: Tensor, context: Any, generator: Generator | None, chosen: Any
    ) -> Any:
        path = self.objective.path
        shared: dict[str, Any] = {
            "known": known, "truncation": Truncation(chosen.temperature, chosen.top_k, chosen.top_p),
            "context": context, "generator": generator, "tally": self.tally,
        }  # fmt: skip
        if chosen.method == "first_hitting":
            return first_hitting(field, x, path, **shared)
        if chosen.method == "unmask":
            how = {"by": chosen.confidence, "block": chosen.block, "threshold": chosen.threshold}
            return unmask(field, x, path, chosen.steps, **how, **shared)
        euler = chosen.method == "euler"
        step = EulerStep(chosen.corrector, chosen.corrector_kind) if euler else MixtureStep(chosen.psi, chosen.remask)
        gibbs = GibbsStep(1, chosen.gibbs) if chosen.gibbs else None
        return jump_flow(field, x, path, uniform_grid(chosen.steps), step=step, gibbs=gibbs, **shared)
